"""The worker pool: claims keys, keeps the claims alive, walks the keys, and carries out their verdicts."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from consumer.broker import Broker, Delivery
from consumer.claims import Claim, KeyLocks
from consumer.errors import BadKeyEvent, Unavailable
from consumer.events import Identity, KeyEvent
from consumer.key import KeyWalk, Trace, Walked
from consumer.logs import frames
from consumer.metrics import Metrics
from consumer.settle import Message, NoteTrouble, Settler
from consumer.subjects import parse_key_subject
from consumer.tasks import end, run_together
from consumer.verdict import Ending, Policy
from feeders import fault
from feeders.errors import LakeFenced
from feeders.streams import StreamId

log = structlog.get_logger()

FETCH_MOST = 64
FETCH_WAIT_S = 5.0
REPAIR_EVERY = 10
"""After this many failures in a row the js_streams are set up again: the server's storage may be a new one."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How many keys are in work at once, and how long a claim lasts without renewal."""

    slots: int
    ack_wait_s: float
    policy: Policy = field(default_factory=Policy)


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
        note_trouble: NoteTrouble,
        repair: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._broker = broker
        self._walk = walk
        self._metrics = metrics
        self._term_lasts = term_lasts
        self._slots = asyncio.Semaphore(config.slots)
        self._locks = KeyLocks()
        self._note_trouble = note_trouble
        self._repair = repair
        self._settler = Settler(
            broker=broker,
            writer=walk.writer,
            metrics=metrics,
            policy=config.policy,
            note_trouble=note_trouble,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Pulls until cancelled. Raises what no key can be blamed for (LakeFenced)."""
        streams: list[StreamId | None] = [stream.id for stream in self._walk.streams]
        await run_together([*(self._pull(stream) for stream in (*streams, None)), self._watch()])

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
                if failures:
                    self._note_trouble("nats", None)
                failures = 0
            except Unavailable as error:
                failures += 1
                await self._wait_for_queue(stream, failures, error)

    async def _wait_for_queue(self, stream: StreamId | None, failures: int, error: Unavailable) -> None:
        self._note_trouble("nats", str(error))
        if failures % REPAIR_EVERY == 1:
            log.warning("queue unavailable", stream=str(stream), failures=failures, error=str(error))
        if failures % REPAIR_EVERY == 0:
            try:
                await self._repair()
            except Unavailable as again:
                log.warning("queue not repaired", error=str(again))
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
            task = asyncio.create_task(self._work(delivery, stream))
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

    async def _work(self, delivery: Delivery, stream: StreamId | None) -> None:
        """One message of a stream's subscription, from delivery to verdict carried out."""
        fault.point("claimed")
        self._metrics.in_work.set(len(self._tasks))
        trace = Trace()
        claim = Claim(delivery, self._config.ack_wait_s, term_lasts=self._term_lasts)
        try:
            _, identity = parse_key_subject(self._broker.config.namespace, delivery.subject)
            event = KeyEvent.from_json(delivery.payload)
        except (ValueError, BadKeyEvent) as error:
            # Anyone may publish; what is no key event is taken off the queue, with its evidence.
            unread = Identity(hashlib.sha256(delivery.subject.encode()).hexdigest()[:32])
            message = Message(delivery=delivery, stream=stream, identity=unread, event=None)
            walked = Walked(ending=Ending.UNDECODABLE, reason="undecodable", detail={"error": str(error)})
            await self._settler.settle(message, walked, trace)
            return
        message = Message(delivery=delivery, stream=stream, identity=identity, event=event)
        async with claim.renewed(), self._locks.held(event.key):
            walked = await self._guarded(event, claim, trace)
            await self._settler.settle(message, walked, trace)

    async def _guarded(self, event: KeyEvent, claim: Claim, trace: Trace) -> Walked:
        try:
            return await self._walk.walk(event, is_claimed=claim.is_held, trace=trace)
        except LakeFenced:
            raise
        except Exception as error:  # noqa: BLE001 - one key's bug must not stop the others
            # Its text may quote a row's value: only where it was raised is logged.
            log.error("unexpected error", key=event.key, kind=type(error).__name__, frames=frames(error))
            detail = {"kind": type(error).__name__, "at": frames(error)[-1]}
            return Walked(ending=Ending.UNEXPECTED, reason="unexpected", detail=detail)
