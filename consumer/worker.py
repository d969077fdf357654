"""The worker pool: keeps the claims of keys alive, walks the keys, and carries out their verdicts.

Which keys are claimed, and when, is the puller's (`consumer.puller`).
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from consumer.breaker import Blocked, Breaker
from consumer.broker import Broker, Delivery
from consumer.claims import Attempts, Claim, KeyLocks
from consumer.errors import BadKeyEvent, Misconfigured
from consumer.events import Identity, KeyEvent
from consumer.key import KeyWalk
from consumer.logs import frames
from consumer.metrics import Metrics
from consumer.pauses import Pauses
from consumer.places import Places
from consumer.puller import Puller
from consumer.settle import Message, NoteReplay, NoteTrouble, Settler
from consumer.subjects import Lane, Queued, parse_key_subject
from consumer.tasks import end, run_together
from consumer.verdict import Ending, Later, Policy
from consumer.walked import Trace, Walked
from feeders import fault
from feeders.errors import LakeFenced
from feeders.streams import StreamId

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How many keys are in work at once, and how long a claim lasts without renewal.

    Keys that a person asked for have slots of their own, a quarter as many: thousands of them make no other key wait
    for a slot, and fill a part of a commit only.
    """

    slots: int
    ack_wait_s: float
    breaker_keys: int
    breaker_probe_s: float
    policy: Policy = field(default_factory=Policy)

    @property
    def replay_slots(self) -> int:
        """Replays that are in work at once, beside `slots` other keys."""
        return max(1, self.slots // 4)


class WorkerPool:
    """Pulls key events and works on them until it is stopped."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        broker: Broker,
        walk: KeyWalk,
        metrics: Metrics,
        pauses: Pauses,
        term_lasts: Callable[[], bool],
        note_trouble: NoteTrouble,
        repair: Callable[[], Awaitable[None]],
        replayed: NoteReplay = lambda _, __: None,
    ) -> None:
        self._config = config
        self._broker = broker
        self._walk = walk
        self._metrics = metrics
        self._pauses = pauses
        self._term_lasts = term_lasts
        self._locks = KeyLocks()
        self._attempts = Attempts()
        self.breaker = Breaker(
            keys=config.breaker_keys, probe_s=config.breaker_probe_s, changed=self._stream_changed
        )
        for stream in walk.streams:
            self._show_blocked(stream.id, is_blocked=False)
        self._settler = Settler(
            broker=broker,
            writer=walk.writer,
            suspects=walk.suspects,
            breaker=self.breaker,
            attempts=self._attempts,
            metrics=metrics,
            policy=config.policy,
            note_trouble=note_trouble,
            replayed=replayed,
        )
        self._puller = Puller(
            [stream.id for stream in walk.streams],
            broker=broker,
            places=Places(slots=config.slots, replay_slots=config.replay_slots),
            pauses=pauses,
            breaker=self.breaker,
            start=self._start,
            note_trouble=note_trouble,
            repair=repair,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Pulls until cancelled. Raises what no key can be blamed for (LakeFenced)."""
        await run_together([self._puller.run(), self._walk.suspects.run(), self._watch()])

    async def _watch(self) -> None:
        await asyncio.shield(self.crashed)

    async def drain(self, timeout_s: float) -> int:
        """Waits for the keys in work; after the deadline the rest is left unacked. Returns how many were left."""
        if not self._tasks:
            return 0
        _, left = await asyncio.wait(self._tasks, timeout=timeout_s)
        await end(left)
        return len(left)

    def _start(self, delivery: Delivery, of: Queued, is_probe: bool) -> asyncio.Task[None]:
        task = asyncio.create_task(self._work(delivery, of, is_probe=is_probe))
        self._tasks.add(task)
        self._show_in_work()
        task.add_done_callback(lambda task: self._worked(task, of))
        return task

    def _worked(self, task: asyncio.Task[None], of: Queued) -> None:
        self._tasks.discard(task)
        self._puller.worked(of)
        self._show_in_work()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.crashed.done():
            self.crashed.set_exception(error)

    async def _work(self, delivery: Delivery, of: Queued, *, is_probe: bool) -> None:
        """One message of a stream's subscription, from delivery to verdict carried out."""
        fault.point("claimed")
        trace = Trace()
        claim = Claim(delivery, self._config.ack_wait_s, term_lasts=self._term_lasts)
        stream = of if isinstance(of, StreamId) else None
        try:
            said, identity = parse_key_subject(self._broker.config.namespace, delivery.subject)
            event = KeyEvent.from_json(delivery.payload)
        except (ValueError, BadKeyEvent) as error:
            # Anyone may publish; what is no key event is taken off the queue, with its evidence.
            unread = Identity(hashlib.sha256(delivery.subject.encode()).hexdigest()[:32])
            message = Message(delivery=delivery, stream=stream, identity=unread, event=None)
            detail = {"error": str(error), "subject": delivery.subject}
            walked = Walked(ending=Ending.UNDECODABLE, reason="undecodable", detail=detail)
            async with claim.renewed():
                await self._settle(message, walked, trace, of)
            return
        message = Message(
            delivery=delivery, stream=said if of is Lane.REPLAYS else stream, identity=identity, event=event
        )
        why_not = self._why_not_now(message, event.key, is_probe=is_probe)
        if why_not is not None:
            walked = Walked(ending=Ending.HELD_BACK, reason=why_not)
            await self._settle(message, walked, trace, of)
            return
        async with claim.renewed(), self._locks.held(event.key):
            if self._pauses.is_paused(message.blockable):  # while it waited for the version before
                walked = Walked(ending=Ending.HELD_BACK, reason="paused")
            else:
                walked = await self._guarded(event, identity, claim, trace)
            await self._settle(message, walked, trace, of)

    async def _settle(self, message: Message, walked: Walked, trace: Trace, of: Queued) -> None:
        verdict = await self._settler.settle(message, walked, trace)
        if isinstance(verdict, Later):
            self._puller.later(of, verdict.delay_s)

    def _why_not_now(self, message: Message, key: str, *, is_probe: bool) -> str | None:
        """Says why a key has to go back untried, or None."""
        if self._pauses.is_paused(message.blockable):
            return "paused"  # a fetch was under way
        if self.breaker.is_blocked(message.blockable) and not is_probe:
            return "blocked"
        # Each version of a key that waits for the one before would keep a slot from other keys.
        return "same_key" if self._locks.is_crowded(key) else None

    async def _guarded(self, event: KeyEvent, identity: Identity, claim: Claim, trace: Trace) -> Walked:
        try:
            isolated = self._attempts.has_failed(identity)
            return await self._walk.walk(
                event, identity, is_claimed=claim.is_held, trace=trace, isolated=isolated
            )
        except (LakeFenced, Misconfigured):
            raise
        except Exception as error:  # noqa: BLE001 - one key's bug must not stop the others
            # Its text may quote a row's value: only where it was raised is logged.
            log.error("unexpected error", key=event.key, kind=type(error).__name__, frames=frames(error))
            where = frames(error)
            detail = {"error_class": type(error).__name__, "at": where[-1], "frames": " < ".join(where[::-1])}
            return Walked(ending=Ending.UNEXPECTED, reason="unexpected", detail=detail)

    def _stream_changed(self, stream: StreamId, blocked: Blocked | None) -> None:
        self._show_blocked(stream, is_blocked=blocked is not None)
        if blocked is None:
            log.info("stream not blocked any more", stream=str(stream))
        else:
            log.error(
                "stream blocked",
                stream=str(stream),
                reason=blocked.reason,
                keys=blocked.keys,
                hint="its keys wait in the queue, and one is tried now and then; meta.feeder_failures has the last"
                " ones that were given up",
            )

    def _show_in_work(self) -> None:
        self._metrics.in_work.set(len(self._tasks))
        self._walk.writer.keys_in_work = len(self._tasks)

    def _show_blocked(self, stream: StreamId, *, is_blocked: bool) -> None:
        self._metrics.stream_blocked.labels(source=stream.source, stream=stream.stream).set(is_blocked)
