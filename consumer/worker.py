"""The worker pool: claims keys, keeps the claims alive, walks the keys, and carries out their verdicts."""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import assert_never

import structlog

from consumer.broker import Broker, Delivery
from consumer.errors import BadKeyEvent, Unavailable
from consumer.events import Identity, KeyEvent
from consumer.key import KeyWalk, Timings, Walked
from consumer.metrics import Metrics
from consumer.subjects import parse_key_subject
from consumer.tasks import end
from consumer.verdict import Dead, Done, Ending, Later, Policy, Verdict, decide_verdict, draw_jitter
from feeders import fault
from feeders.failures import Failure
from feeders.lake import LakeError, LakeFenced
from feeders.streams import StreamId
from feeders.work import ClaimLost

log = structlog.get_logger()

FETCH_MOST = 64
FETCH_WAIT_S = 5.0
ATTEMPTS_KEPT = 100_000


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How many keys are in work at once, and how long a claim lasts without renewal."""

    slots: int
    ack_wait_s: float
    policy: Policy = field(default_factory=Policy)


class Claim:
    """The exclusive right to process one key event, renewed at a quarter of `ack_wait_s` while in the block."""

    def __init__(self, delivery: Delivery, ack_wait_s: float, *, term_lasts: Callable[[], bool]) -> None:
        self._delivery = delivery
        self._ack_wait_s = ack_wait_s
        self._term_lasts = term_lasts
        self._renewed_at = time.monotonic()

    def is_held(self) -> bool:
        """Says whether the queue has certainly not given the key to someone else. From any thread."""
        return self._term_lasts() and time.monotonic() - self._renewed_at < self._ack_wait_s

    @asynccontextmanager
    async def renewed(self) -> AsyncGenerator[None]:
        """Keeps renewing until the block ends."""
        task = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            await end([task])

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._ack_wait_s / 4)
            asked_at = time.monotonic()
            try:
                await self._delivery.working()
            except Unavailable:
                continue  # the next try may come in time; if not, `is_held` turns false by itself
            self._renewed_at = asked_at


class Attempts:
    """How often each key has ended the same way in a row; the oldest are forgotten beyond a bound."""

    def __init__(self) -> None:
        self._counts: OrderedDict[Identity, tuple[Ending, int]] = OrderedDict()

    def count(self, identity: Identity, ending: Ending) -> int:
        """Counts one more, and says how many it is."""
        last, count = self._counts.pop(identity, (ending, 0))
        count = count + 1 if last is ending else 1
        self._counts[identity] = (ending, count)
        if len(self._counts) > ATTEMPTS_KEPT:
            self._counts.popitem(last=False)
        return count

    def forget(self, identity: Identity) -> None:
        """The key has its last verdict."""
        self._counts.pop(identity, None)


class KeyLocks:
    """One walk at a time for each key, so that of two versions the one read last is loaded last."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def held(self, key: str) -> AsyncGenerator[None]:
        """Waits for the key's turn."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)


class WorkerPool:
    """Pulls key events and works on them until it is stopped."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        broker: Broker,
        walk: KeyWalk,
        metrics: Metrics,
        term_lasts: Callable[[], bool],
    ) -> None:
        self._config = config
        self._broker = broker
        self._walk = walk
        self._metrics = metrics
        self._term_lasts = term_lasts
        self._slots = asyncio.Semaphore(config.slots)
        self._locks = KeyLocks()
        self._attempts = Attempts()
        self._tasks: set[asyncio.Task[None]] = set()
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Pulls until cancelled. Raises what no key can be blamed for (LakeFenced)."""
        streams: list[StreamId | None] = [stream.id for stream in self._walk.streams]
        async with asyncio.TaskGroup() as group:
            for stream in (*streams, None):
                group.create_task(self._pull(stream))
            group.create_task(self._watch())

    async def _watch(self) -> None:
        await asyncio.shield(self.crashed)

    async def drain(self, timeout_s: float) -> int:
        """Waits for the keys in work; after the deadline the rest is left unacked. Returns how many were left."""
        if not self._tasks:
            return 0
        _, left = await asyncio.wait(self._tasks, timeout=timeout_s)
        await end(left)
        return len(left)

    async def _pull(self, stream: StreamId | None) -> None:
        """Claims a stream's keys. While it has none it holds one slot; else idle streams would starve the others."""
        failures = 0
        while True:
            await self._slots.acquire()
            try:
                found = await self._claim(stream, 1, self._idle_wait_s)
                while found and (more := await self._take_free_slots()):
                    found = await self._claim(stream, more, 0)
                failures = 0
            except Unavailable as error:
                failures += 1
                if failures == 1:
                    log.warning("queue unavailable", error=str(error))
                await asyncio.sleep(min(10.0, 0.5 * 2.0 ** min(failures, 5)))

    @property
    def _idle_wait_s(self) -> float:
        """How long an idle stream may hold its slot: not long where there are fewer slots than streams."""
        return FETCH_WAIT_S if self._config.slots > len(self._walk.streams) else FETCH_WAIT_S / 20

    async def _take_free_slots(self) -> int:
        taken = 0
        while taken < FETCH_MOST and not self._slots.locked():
            await self._slots.acquire()
            taken += 1
        return taken

    async def _claim(self, stream: StreamId | None, slots: int, wait_s: float) -> int:
        """Starts work on up to `slots` keys, in slots that are taken already; gives back the others."""
        deliveries: list[Delivery] = []
        try:
            deliveries = await self._broker.fetch(stream, slots, wait_s)
        finally:
            for _ in range(slots - len(deliveries)):
                self._slots.release()
        for delivery in deliveries:
            task = asyncio.create_task(self._work(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._worked)
        return len(deliveries)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        self._metrics.in_work.set(len(self._tasks))
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.crashed.done():
            self.crashed.set_exception(error)

    async def _work(self, delivery: Delivery) -> None:
        """One message, from delivery to verdict carried out."""
        fault.point("claimed")
        self._metrics.in_work.set(len(self._tasks))
        timings = Timings()
        claim = Claim(delivery, self._config.ack_wait_s, term_lasts=self._term_lasts)
        stream, identity = parse_key_subject(self._broker.config.namespace, delivery.subject)
        event: KeyEvent | None = None
        try:
            event = KeyEvent.from_json(delivery.payload)
        except BadKeyEvent as error:
            walked = Walked(ending=Ending.UNDECODABLE, reason="undecodable", detail={"error": str(error)})
            await self._conclude(delivery, stream, identity, None, walked, timings)
            return
        async with claim.renewed(), self._locks.held(event.key):
            walked = await self._guarded(event, claim, timings)
            await self._conclude(delivery, stream, identity, event, walked, timings)

    async def _guarded(self, event: KeyEvent, claim: Claim, timings: Timings) -> Walked:
        try:
            return await self._walk.walk(event, is_claimed=claim.is_held, timings=timings)
        except LakeFenced:
            raise
        except Exception as error:
            log.error("unexpected error", key=event.key, exc_info=error)
            return Walked(
                ending=Ending.UNEXPECTED,
                reason="unexpected",
                detail={"kind": type(error).__name__, "error": "see the log"},
            )

    async def _conclude(
        self,
        delivery: Delivery,
        stream: StreamId | None,
        identity: Identity,
        event: KeyEvent | None,
        walked: Walked,
        timings: Timings,
    ) -> None:
        """Decides the verdict and carries it out; the evidence of a dead letter is written first."""
        stream = walked.stream.id if walked.stream else stream
        attempts = self._attempts.count(identity, walked.ending)
        verdict = decide_verdict(
            walked.ending, attempts=attempts, policy=self._config.policy, jitter=draw_jitter()
        )
        fault.point("settling")
        try:
            match verdict:
                case Done():
                    await delivery.done()
                case Later(delay_s=delay_s):
                    await delivery.later(delay_s)
                case Dead():
                    await self._bury(delivery, stream, event, walked, attempts)
                case _:
                    assert_never(verdict)
        except (Unavailable, LakeError, ClaimLost) as error:
            if isinstance(error, LakeFenced):
                raise
            # Not settled: the queue gives it again after ack_wait, and the ledger knows what was loaded.
            log.warning("verdict not delivered", key=event.key if event else None, error=str(error))
        else:
            if not isinstance(verdict, Later):
                self._attempts.forget(identity)
        fault.point("settled")
        self._report(stream, event, walked, verdict, attempts, timings)

    async def _bury(
        self,
        delivery: Delivery,
        stream: StreamId | None,
        event: KeyEvent | None,
        walked: Walked,
        attempts: int,
    ) -> None:
        failure = Failure(
            stream=stream,
            bucket=event.bucket if event else None,
            key=event.key if event else None,
            etag=event.etag if event else None,
            reason=walked.reason or walked.ending.value,
            attempts=attempts,
            detail=dict(walked.detail),
        )
        await asyncio.wrap_future(self._walk.writer.submit(failure))
        fault.point("recorded")
        announced = asdict(failure) | {
            "stream": str(stream) if stream else None,
            "schema": "lotus-lake.dead/1",
        }
        await self._broker.publish_dead(stream, json.dumps(announced).encode())
        fault.point("announced")
        await delivery.dead()

    def _report(
        self,
        stream: StreamId | None,
        event: KeyEvent | None,
        walked: Walked,
        verdict: Verdict,
        attempts: int,
        timings: Timings,
    ) -> None:
        """The one canonical log line of a message, and its metrics."""
        labels = {
            "source": stream.source if stream else "_unrouted",
            "stream": stream.stream if stream else "_",
        }
        name = type(verdict).__name__.lower()
        metrics = self._metrics
        metrics.verdicts.labels(**labels, outcome=walked.ending.value, verdict=name).inc()
        for stage, seconds in timings.stages.items():
            metrics.stage_seconds.labels(stage=stage).observe(seconds)
        if isinstance(verdict, Dead):
            metrics.dead.labels(**labels, reason=walked.reason or walked.ending.value).inc()
        if isinstance(verdict, Later):
            metrics.retries.labels(cause=walked.reason or walked.ending.value).inc()
        age_s = None
        if walked.ending in (Ending.LOADED, Ending.REPLACED, Ending.REPLAYED):
            metrics.files.labels(**labels).inc()
            metrics.rows.labels(**labels).inc(walked.rows)
            metrics.rescued.labels(**labels).inc(walked.rescued_rows)
            if walked.version is not None and walked.version.last_modified is not None:
                age_s = max(0.0, (datetime.now(UTC) - walked.version.last_modified).total_seconds())
                metrics.put_to_staging.labels(**labels).observe(age_s)
        if walked.result is not None:
            metrics.batch_items.observe(walked.result.batch_items)
        log.info(
            "key",
            key=event.key if event else None,
            stream=str(stream) if stream else None,
            verdict=name,
            outcome=walked.ending.value,
            reason=walked.reason,
            detail=dict(walked.detail) or None,
            etag=walked.version.etag if walked.version else None,
            rows=walked.rows,
            rescued_rows=walked.rescued_rows,
            attempts=attempts,
            found_by=event.found_by if event else None,
            put_to_staging_s=round(age_s, 3) if age_s is not None else None,
            **{f"{stage}_s": round(seconds, 4) for stage, seconds in timings.stages.items()},
        )
