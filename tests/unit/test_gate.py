"""The gate: many together or one alone, and neither starves the other."""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.gate import Gate


class Visitors:
    """Tasks that go through a gate and stay inside until they are told to leave."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.inside: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def come(self, name: str) -> None:
        """A name in capitals wants to be alone."""
        enter = self.gate.alone if name.isupper() else self.gate.shared
        self._leave[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._visit(name, enter))

    async def _visit(self, name: str, enter: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        async with enter():
            self.inside.append(name)
            assert len(self.inside) == 1 or not any(each.isupper() for each in self.inside)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await self._tasks[name]

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tasks[name]


async def settled() -> None:
    """Lets every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def arrive(visitors: Visitors, names: str) -> None:
    for name in names:
        visitors.come(name)
        await settled()


async def test_many_share_and_one_alone_waits_for_all_of_them() -> None:
    visitors = Visitors()
    await arrive(visitors, "abA")
    assert visitors.inside == ["a", "b"]
    await visitors.leave("a")
    await settled()
    assert visitors.inside == ["b"]
    await visitors.leave("b")
    await settled()
    assert visitors.inside == ["A"]


async def test_newcomers_do_not_starve_the_one_that_wants_to_be_alone() -> None:
    visitors = Visitors()
    await arrive(visitors, "aAbc")
    assert visitors.inside == ["a"]
    await visitors.leave("a")
    await settled()
    assert visitors.inside == ["A"]


async def test_all_who_wait_come_in_between_two_that_are_alone() -> None:
    visitors = Visitors()
    await arrive(visitors, "ABbcd")
    await visitors.leave("A")
    await settled()
    assert visitors.inside == ["b", "c", "d"]
    await arrive(visitors, "e")
    for name in "bcd":
        await visitors.leave(name)
    await settled()
    assert visitors.inside == ["B"]
    await visitors.leave("B")
    await settled()
    assert visitors.inside == ["e"]


async def test_one_that_gives_up_waiting_to_be_alone_lets_the_others_in() -> None:
    visitors = Visitors()
    await arrive(visitors, "aAb")
    await visitors.give_up("A")
    await settled()
    assert visitors.inside == ["a", "b"]


async def test_one_that_is_let_in_at_the_moment_it_gives_up_leaves_again() -> None:
    gate = Gate()

    async def share() -> None:
        async with gate.shared():
            pass

    async with gate.alone():
        waiting = asyncio.create_task(share())
        await settled()
    waiting.cancel()  # it was let in just now, and has not run since
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    async with asyncio.timeout(5), gate.alone():
        pass


STEPS = st.lists(
    st.tuples(st.sampled_from("abcdefABC"), st.sampled_from(("come", "leave", "give up"))), max_size=60
)


@given(STEPS)
@settings(deadline=None)
def test_whatever_comes_goes_and_gives_up_in_the_end_all_have_been_inside(
    steps: list[tuple[str, str]],
) -> None:
    async def run() -> None:
        visitors = Visitors()
        here: set[str] = set()
        for name, step in steps:
            if step == "come" and name not in here:
                visitors.come(name)
                here.add(name)
            elif step == "leave" and name in visitors.inside:
                await visitors.leave(name)
                here.discard(name)
            elif step == "give up" and name in here:
                await visitors.give_up(name)
                here.discard(name)
            await asyncio.sleep(0)
        while here:
            await settled()
            assert visitors.inside, f"nobody is inside, and {here} wait"
            for name in list(visitors.inside):
                await visitors.leave(name)
                here.discard(name)

    asyncio.run(run())
