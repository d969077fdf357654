"""When the landing prefix is swept: at the start of a term, every so often, and at once after a gap.

What one sweep does is in `consumer.ingress.sweep`; `make_sweep` puts it together for a term and for the command line.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NoReturn

import structlog

from consumer.broker import Broker
from consumer.events import KeyEvent
from consumer.ingress.gone import Gone, GonePolicy
from consumer.ingress.sweep import Sweep, Swept
from consumer.metrics import Metrics
from consumer.objects import Bucket
from consumer.settings import Settings
from feeders.reader import LakeReader
from feeders.streams import StreamId, StreamTable

log = structlog.get_logger()

LONGEST_PAUSE_S = 600.0
UNFINISHED_AFTER_S = 600.0


class Reason(StrEnum):
    """Why a sweep is asked for. All but the first three are gaps: something may have been lost."""

    START = "start"
    INTERVAL = "interval"
    UNFINISHED = "unfinished"
    QUEUE_LOST = "queue_lost"
    CATALOG_WENT_BACK = "catalog_went_back"
    POSITION_LOST = "position_lost"
    LOG_LOST = "filer_log_lost"
    FILER_AWAY = "filer_away"
    UNDECODABLE = "undecodable"


_PLANNED = (Reason.START, Reason.INTERVAL, Reason.UNFINISHED)


class Sweeping:
    """Runs one sweep after the other, when asked; what is asked for while one runs leads to one more.

    After a gap a sweep begins at once, but never within the time that the last one took: an endless row of gaps
    costs at most half of the time. For one event loop.
    """

    def __init__(
        self, *, interval_s: float, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            interval_s: from the end of one to the next that nobody asked for; 0: never.
            metrics: are told of each sweep.
            clock: gives seconds.
        """
        self._interval_s = interval_s
        self._metrics = metrics
        self._clock = clock
        self._asked: set[Reason] = set()
        self._wake = asyncio.Event()
        self._due_at = clock() + interval_s if interval_s else None
        self._due_for = Reason.INTERVAL
        self._not_before = 0.0
        self._lost: dict[Reason, frozenset[StreamId | None] | None] = {}

    def lost(self, stream: StreamId) -> str | None:
        """Says which gaps no sweep has made up for yet, of a stream; None if there is none."""
        reasons = [r.value for r, streams in self._lost.items() if streams is None or stream in streams]
        return ", ".join(reasons) or None

    def request(self, reason: Reason, detail: str | None = None) -> None:
        """Asks for a sweep of all that is there from now on. Returns at once; from the event loop's thread."""
        if reason not in self._asked and reason not in _PLANNED:
            log.warning("gap: the whole bucket is swept", reason=reason.value, detail=detail)
        self._asked.add(reason)
        if reason not in _PLANNED:
            self._lost[reason] = None
        self._wake.set()

    async def run(self, sweep: Callable[[], Awaitable[Swept]]) -> NoReturn:
        """Calls `sweep`, which runs one until it got through, until cancelled. Raises what it raises."""
        while True:
            await self._until_due()
            reasons, self._asked = self._asked, set()
            self._wake.clear()
            await self._run_one(sweep, sorted(reasons))

    async def _until_due(self) -> None:
        """Waits until somebody asked or the time has come, and the last sweep is long enough ago."""
        due_in_s = None if self._due_at is None else max(0.0, self._due_at - self._clock())
        try:
            async with asyncio.timeout(due_in_s):
                await self._wake.wait()
        except TimeoutError:
            self._asked.add(self._due_for)
        await asyncio.sleep(max(0.0, self._not_before - self._clock()))

    async def _run_one(self, sweep: Callable[[], Awaitable[Swept]], reasons: list[Reason]) -> None:
        log.info("sweep begins", reasons=[reason.value for reason in reasons])
        for reason in reasons:
            self._metrics.sweeps.labels(reason=reason.value).inc()
        self._note_gap(reasons)
        began = self._clock()
        swept = await sweep()
        self._note_gap(reasons)
        ended = self._clock()
        self._metrics.sweep_seconds.set(ended - began)
        self._metrics.swept_at.set_to_current_time()
        self._not_before = ended + min(ended - began, LONGEST_PAUSE_S)
        self._due_at = ended + self._interval_s if self._interval_s else None
        self._due_for = Reason.INTERVAL
        # What was asked for meanwhile is made up for by the next one, and a stream whose queue was full too.
        self._lost = {
            reason: streams if reason in self._asked else swept.stalled
            for reason, streams in self._lost.items()
            if reason in self._asked or swept.stalled
        }
        if swept.stalled and (self._due_at is None or self._due_at > ended + UNFINISHED_AFTER_S):
            self._due_at, self._due_for = ended + UNFINISHED_AFTER_S, Reason.UNFINISHED
        log.info(
            "swept",
            reasons=[reason.value for reason in reasons],
            seconds=round(ended - began, 3),
            listed=swept.listed,
            published=swept.published,
            removed=swept.removed,
            stalled=sorted(str(stream) for stream in swept.stalled) or None,
        )

    def _note_gap(self, reasons: list[Reason]) -> None:
        """What such a sweep finds is no sign that a way in loses something."""
        if set(reasons) != {Reason.INTERVAL}:
            self._metrics.gap_at.set_to_current_time()


def make_sweep(
    settings: Settings,
    streams: StreamTable,
    *,
    broker: Broker,
    bucket: Bucket,
    reader: LakeReader,
    publish: Callable[[KeyEvent, StreamId | None], Awaitable[bool]],
    metrics: Metrics,
) -> Sweep:
    """Puts a sweep of the landing prefix together; `publish` is what brings keys into the queue."""

    async def pending(stream: StreamId | None) -> int:
        return sum(await broker.pending(stream))

    def found(stream: StreamId | None) -> None:
        labels = (stream.source, stream.stream) if stream else ("_unrouted", "_")
        metrics.swept.labels(*labels).inc()

    def tell(stream: StreamId, gone: Gone | None) -> None:
        held = gone.absence.gone if gone and gone.must_wait else 0
        metrics.removals_held.labels(source=stream.source, stream=stream.stream).set(held)
        if gone is not None and gone.must_wait:
            log.error(
                "removals wait for a person",
                stream=str(stream),
                gone=gone.absence.gone,
                in_staging=gone.absence.present,
                in_bucket=gone.absence.listed,
                first=gone.examples,
                hint=f"is the bucket whole? If they are meant to be gone: lotus-lake sweep --confirm {stream}",
            )

    return Sweep(
        bucket_name=settings.landing_bucket,
        prefix=settings.landing_prefix,
        bucket=bucket,
        streams=streams,
        reader=reader,
        publish=publish,
        pending=pending,
        max_pending=settings.sweep_max_pending,
        found=found,
        policy=GonePolicy(most_percent=settings.sweep_max_removed_percent, tell=tell),
    )
