"""The state of a stream: a table of what is known, and what is said of it; and parts that don't come in time."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from consumer.board import Part
from consumer.errors import Unavailable
from consumer.http import policy_of, read_page
from consumer.ingress.sweep import Swept
from consumer.metrics import Metrics
from consumer.stream_state import DEAD_FOR, LAGGING_AFTER, Facts, Role, StreamState, state_of
from consumer.sweeping import Reason, Sweeping
from feeders.streams import StreamId
from tests.helpers import wait_until_async

NOW = datetime(2026, 7, 4, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
WELL = Facts(role=Role.WRITER)
WORST = Facts(
    role=Role.WRITER,
    paused="by ann: a look",
    blocked="21 keys in a row",
    lost="filer_away",
    oldest_pending_at=NOW - LAGGING_AFTER - SECOND,
    dead=(("not_parquet", 1200), ("empty", 1)),
    last_dead_at=NOW - DEAD_FOR + SECOND,
)
ORDERS = StreamId(source="shopify", stream="orders")
LISTS = StreamId(source="klaviyo", stream="lists")


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        (WELL, StreamState.RUNNING, "what lands is loaded"),
        (WORST, StreamState.PAUSED, "by ann: a look"),
        (replace(WORST, paused=None), StreamState.BLOCKED, "21 keys in a row"),
        (replace(WORST, paused=None, blocked=None), StreamState.DEGRADED, "filer_away"),
        (replace(WORST, paused=None, blocked=None, lost=None), StreamState.LAGGING, "waits for 61 s"),
        (
            replace(WORST, paused=None, blocked=None, lost=None, oldest_pending_at=None),
            StreamState.DEAD_LETTERING,
            "not_parquet 1,200, empty 1",
        ),
        (replace(WELL, oldest_pending_at=NOW - LAGGING_AFTER), StreamState.RUNNING, ""),
        (replace(WELL, last_dead_at=NOW - DEAD_FOR), StreamState.RUNNING, ""),
        (replace(WORST, role=Role.STANDBY), StreamState.STANDBY, "not the writer: standby"),
        (replace(WORST, role=Role.STARTING), StreamState.STANDBY, "starting"),
        (replace(WORST, role=Role.DRAINING), StreamState.STANDBY, "draining"),
        (replace(WORST, role=Role.NONE), StreamState.STOPPED, "no writer answers"),
        (replace(WORST, role=Role.UNKNOWN), StreamState.UNKNOWN, "NATS could not be asked"),
    ],
)
def test_the_gravest_state_is_told_with_its_reason(facts: Facts, state: StreamState, reason: str) -> None:
    found, why = state_of(facts, now=NOW)
    assert found is state
    assert reason in why


async def test_a_part_that_hangs_is_missing_and_asked_once() -> None:
    asked = 0
    answer: asyncio.Event = asyncio.Event()

    async def read() -> str:
        nonlocal asked
        asked += 1
        await answer.wait()
        return "found"

    part = Part(read, patience_s=0.05)
    assert await asyncio.gather(part.get(), part.get()) == [(None, "no answer in 0.05 s")] * 2
    assert await part.get() == (None, "no answer in 0.05 s")
    answer.set()
    assert await part.get() == ("found", None)
    assert asked == 1
    assert await part.close()


async def test_what_was_found_is_kept_for_ten_times_what_it_took() -> None:
    now, asked = 0.0, 0

    async def read() -> int:
        nonlocal now, asked
        asked += 1
        now += 2.0
        if asked == 2:
            raise Unavailable("nats", "away")
        return asked

    part = Part(read, patience_s=1, clock=lambda: now)
    assert await part.get() == (1, None)
    now = 21.9
    assert await part.get() == (1, None)
    now = 22.0
    found, why = await part.get()
    assert found is None
    assert why is not None
    assert "away" in why
    now = 100.0
    assert await part.get() == (3, None)


async def test_notifications_are_lost_until_a_sweep_that_began_later_is_through() -> None:
    sweeping = Sweeping(interval_s=0, metrics=Metrics())
    swept: asyncio.Queue[Swept] = asyncio.Queue()
    began: asyncio.Queue[None] = asyncio.Queue()

    async def sweep() -> Swept:
        await began.put(None)
        return await swept.get()

    async def orders_are_whole() -> bool:
        return sweeping.lost(ORDERS) is None

    running = asyncio.create_task(sweeping.run(sweep))
    try:
        sweeping.request(Reason.START)
        await began.get()
        assert sweeping.lost(ORDERS) is None
        sweeping.request(Reason.FILER_AWAY)
        assert sweeping.lost(ORDERS) == "filer_away"
        await swept.put(Swept(listed=0, published=0))
        await began.get()
        assert sweeping.lost(ORDERS) == "filer_away", "that sweep began before"
        await swept.put(Swept(listed=0, published=0, stalled=frozenset({LISTS})))
        await wait_until_async(orders_are_whole, what="the sweep's end")
        assert sweeping.lost(LISTS) == "filer_away", "its queue was full"
    finally:
        running.cancel()
        await asyncio.wait({running})


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = read_page()
    assert "http://" not in page
    assert "https://" not in page
    assert "innerHTML" not in page
    assert " style=" not in page
    policy = policy_of(page)
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
