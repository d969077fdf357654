"""Putting a landing: the order of one key's puts, the bounds of concurrency, rate and time, and failures.

`put` is any callable; here it is a dict with gates, so that a test decides when a put ends.
"""

import asyncio
import time
from collections.abc import Iterator

import pytest

from consumer.landing.generate import LandingFile
from consumer.landing.write import Landed, run_landing
from tests.helpers import wait_until_async


def files(*keys: str) -> Iterator[LandingFile]:
    for number, key in enumerate(keys):
        yield LandingFile(
            key=key,
            source="shopify",
            stream="orders",
            body=str(number).encode(),
            rows=10,
            overwrites=key in keys[:number],
        )


def endless() -> Iterator[LandingFile]:
    number = 0
    while True:
        number += 1
        yield from files(f"k{number}")


class Gate:
    """A bucket whose puts end when the test says so."""

    def __init__(self) -> None:
        self.started: list[tuple[str, bytes]] = []
        self.finished: dict[str, bytes] = {}
        self.waiting = 0
        self.most = 0
        self.open = asyncio.Event()
        self.slow: set[str] = set()

    async def put(self, key: str, body: bytes) -> None:
        self.started.append((key, body))
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        if not self.slow or key in self.slow:
            await self.open.wait()
        self.waiting -= 1
        self.finished[key] = body

    async def has(self, *keys: str) -> bool:
        return self.finished.keys() >= set(keys)

    async def is_busy_with(self, puts: int) -> bool:
        return self.waiting == puts


async def test_every_file_is_put_and_reported() -> None:
    gate = Gate()
    gate.open.set()
    reported: list[Landed] = []

    summary = await run_landing(files("a", "b", "a"), gate.put, on_progress=reported.append)

    assert gate.finished == {"a": b"2", "b": b"1"}
    assert [(each.key, each.rows, each.size_bytes, each.overwrites) for each in reported] == [
        ("a", 10, 1, False),
        ("b", 10, 1, False),
        ("a", 10, 1, True),
    ]
    assert all(each.started_at <= each.finished_at for each in reported)
    assert (summary.files, summary.objects, summary.rows, summary.size_bytes) == (3, 2, 30, 3)


async def test_a_key_comes_again_only_after_its_former_put() -> None:
    gate = Gate()
    gate.slow = {"a"}
    run = asyncio.create_task(run_landing(files("a", "b", "a", "c", "a"), gate.put))
    await wait_until_async(lambda: gate.has("b", "c"), what="the other keys to pass")
    assert [body for key, body in gate.started if key == "a"] == [b"0"]

    gate.open.set()
    await run

    assert [body for key, body in gate.started if key == "a"] == [b"0", b"2", b"4"]
    assert gate.finished["a"] == b"4"


async def test_no_more_puts_at_once_than_allowed() -> None:
    gate = Gate()
    run = asyncio.create_task(run_landing(files(*"abcdefgh"), gate.put, concurrency=3))
    await wait_until_async(lambda: gate.is_busy_with(3), what="three puts at once")
    gate.open.set()
    await run
    assert gate.most == 3
    assert [key for key, _ in gate.started] == list("abcdefgh")


async def test_the_rate_spaces_the_starts() -> None:
    gate = Gate()
    gate.open.set()
    reported: list[Landed] = []
    await run_landing(files(*"abcdef"), gate.put, rate=50, on_progress=reported.append)
    first = reported[0].started_at
    for number, each in enumerate(reported):
        # A start can be late on a busy machine, and never early; the first file itself may be late a little.
        assert (each.started_at - first).total_seconds() >= number / 50 - 0.05
    assert (reported[-1].started_at - first).total_seconds() >= 0.05


async def test_the_time_ends_a_landing_that_has_no_end() -> None:
    gate = Gate()
    gate.open.set()
    summary = await run_landing(endless(), gate.put, seconds=0.2)
    assert summary.files == len(gate.finished) > 0
    assert summary.duration_s >= 0.2


async def test_a_slow_rate_does_not_outlast_the_time() -> None:
    gate = Gate()
    gate.open.set()
    started = time.monotonic()
    summary = await run_landing(endless(), gate.put, rate=0.01, seconds=0.2)
    assert summary.files == 1
    assert time.monotonic() - started < 50


async def test_a_put_that_fails_ends_the_landing() -> None:
    async def put(key: str, body: bytes) -> None:
        if key == "k3":
            raise ConnectionError(f"put {key}: {len(body)} bytes refused")

    with pytest.raises(ConnectionError, match="put k3: 1 bytes refused"):
        await run_landing(endless(), put, concurrency=2)
