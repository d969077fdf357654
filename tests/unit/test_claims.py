"""Turns of a key: one walks, one waits, and more would only keep slots from other keys."""

import asyncio

from consumer.claims import KeyLocks


async def test_one_walk_at_a_time_for_each_key() -> None:
    locks = KeyLocks()
    order: list[str] = []

    async def walk(name: str, key: str, leave: asyncio.Event) -> None:
        async with locks.held(key):
            order.append(name)
            await leave.wait()

    leave, others_leave = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(walk("first", "a", leave))
    await asyncio.sleep(0)
    assert not locks.is_crowded("a")
    second = asyncio.create_task(walk("second", "a", leave))
    other = asyncio.create_task(walk("other", "b", others_leave))
    await asyncio.sleep(0)
    assert order == ["first", "other"]
    assert locks.is_crowded("a")
    assert not locks.is_crowded("b")
    leave.set()
    await asyncio.gather(first, second)
    assert order == ["first", "other", "second"]
    assert not locks.is_crowded("a")
    others_leave.set()
    await other


async def test_one_that_gives_up_waiting_makes_room() -> None:
    locks = KeyLocks()
    async with locks.held("a"):

        async def wait() -> None:
            async with locks.held("a"):
                pass

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert locks.is_crowded("a")
        waiting.cancel()
        await asyncio.wait({waiting})
        assert not locks.is_crowded("a")
