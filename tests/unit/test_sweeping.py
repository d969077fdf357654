"""When sweeps run: what is asked for while one runs leads to one more, and gaps never take all of the time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from consumer.ingress.room import Room
from consumer.ingress.sweep import Swept
from consumer.metrics import Metrics
from consumer.sweeping import Reason, Sweeping
from consumer.tasks import end
from feeders.presence import Absence
from feeders.streams import StreamId
from tests.helpers import wait_until_async

ORDERS = StreamId(source="shopify", stream="orders")


class Sweeps:
    """Sweeps that a test ends one by one."""

    def __init__(self, *, interval_s: float = 0.0) -> None:
        self.now = 1000.0
        self.metrics = Metrics()
        self.sweeping = Sweeping(interval_s=interval_s, metrics=self.metrics, clock=lambda: self.now)
        self.begun = 0
        self.may_end = asyncio.Semaphore(0)
        self.stalled = frozenset[StreamId | None]()

    async def sweep(self) -> Swept:
        self.begun += 1
        await self.may_end.acquire()
        return Swept(listed=0, published=0, stalled=self.stalled)

    def count(self, reason: Reason) -> float:
        value = self.metrics.registry.get_sample_value("lotus_lake_sweeps_total", {"reason": reason.value})
        return value or 0.0

    async def has_begun(self, times: int) -> None:
        await wait_until_async(
            lambda: asyncio.sleep(0, self.begun >= times), timeout_s=10, what=f"{times} sweeps"
        )

    async def is_idle(self) -> None:
        """Lets the schedule run until nothing moves."""
        for _ in range(20):
            await asyncio.sleep(0)


@asynccontextmanager
async def running(sweeps: Sweeps) -> AsyncGenerator[Sweeps]:
    task = asyncio.create_task(sweeps.sweeping.run(sweeps.sweep))
    try:
        yield sweeps
        assert not task.done()
    finally:
        await end([task])


async def test_what_is_asked_for_meanwhile_leads_to_one_more() -> None:
    async with running(Sweeps()) as sweeps:
        await sweeps.is_idle()
        assert sweeps.begun == 0, "nobody asked"
        sweeps.sweeping.request(Reason.START)
        await sweeps.has_begun(1)
        for reason in (Reason.QUEUE_LOST, Reason.UNDECODABLE, Reason.UNDECODABLE, Reason.QUEUE_LOST):
            sweeps.sweeping.request(reason)
        await sweeps.is_idle()
        assert sweeps.begun == 1, "one at a time"
        sweeps.may_end.release()
        await sweeps.has_begun(2)
        sweeps.may_end.release()
        await sweeps.is_idle()
        assert sweeps.begun == 2
        assert [sweeps.count(reason) for reason in Reason if sweeps.count(reason)] == [1.0, 1.0, 1.0]


async def test_the_next_one_comes_by_itself() -> None:
    async with running(Sweeps(interval_s=0.01)) as sweeps:
        sweeps.may_end.release()
        await sweeps.has_begun(2)
        assert sweeps.count(Reason.INTERVAL) == 2.0


async def test_after_a_gap_at_once_but_not_within_the_time_that_the_last_one_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note_pause(seconds: float, result: object = None) -> object:
        pauses.append(seconds)
        return await sleep(0, result)

    monkeypatch.setattr("consumer.sweeping.asyncio.sleep", note_pause)
    sweeps = Sweeps()
    task = asyncio.create_task(sweeps.sweeping.run(sweeps.sweep))
    try:
        for _ in range(2):
            sweeps.sweeping.request(Reason.UNDECODABLE)
            begun = sweeps.begun
            while sweeps.begun == begun:
                await sleep(0)
            sweeps.now += 30
            sweeps.may_end.release()
            for _ in range(20):
                await sleep(0)
    finally:
        await end([task])
    assert pauses == [0.0, 30.0]


async def test_a_sweep_that_left_a_stream_out_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.sweeping.UNFINISHED_AFTER_S", 0.01)
    sweeps = Sweeps()
    sweeps.stalled = frozenset({ORDERS})
    async with running(sweeps):
        sweeps.sweeping.request(Reason.START)
        await sweeps.has_begun(1)
        sweeps.may_end.release()
        await sweeps.has_begun(2)
        assert sweeps.count(Reason.UNFINISHED) == 1.0
        sweeps.stalled = frozenset()
        sweeps.may_end.release()
        await sweeps.is_idle()
        assert sweeps.begun == 2


async def test_a_stream_that_stands_still_is_left_out_and_the_others_are_not() -> None:
    waiting: dict[StreamId | None, int] = {ORDERS: 3, None: 0}

    async def pending(stream: StreamId | None) -> int:
        return waiting[stream]

    room = Room(pending, 3, stalled_s=0.0)
    assert not await room.take(ORDERS)
    assert await room.take(None)
    waiting[ORDERS] = 0
    assert not await room.take(ORDERS), "once left out, out for this sweep"
    assert room.stalled == {ORDERS}


@pytest.mark.parametrize(
    ("present", "gone", "listed", "waits"),
    [
        (100, 0, 100, False),
        (100, 10, 90, False),
        (100, 11, 89, True),
        (5, 1, 4, True),
        (100, 100, 0, True),
        (100, 0, 0, False),
        # What is in the bucket and not in staging yet makes nothing safer.
        (100, 100, 5, True),
    ],
)
def test_how_much_may_be_gone_at_once(present: int, gone: int, listed: int, waits: bool) -> None:
    absence = Absence(present=present, gone=gone, listed=listed)
    assert absence.needs_a_human(10) is waits
    assert absence.needs_a_human(100) is (gone > 0 and listed == 0)
