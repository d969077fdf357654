"""Carries out a message's verdict: evidence first, then the word to the queue, then one log line."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

import structlog

from consumer.breaker import Breaker
from consumer.broker import Broker, Delivery
from consumer.claims import Attempts
from consumer.errors import Unavailable
from consumer.events import Identity, KeyEvent
from consumer.evidence import announcement
from consumer.metrics import Metrics
from consumer.suspects import Suspects
from consumer.verdict import Dead, Done, Ending, Later, Policy, Verdict, decide_verdict, draw_jitter
from consumer.walked import Trace, Walked
from feeders import fault
from feeders.errors import LakeError, LakeFenced
from feeders.failures import Failure, resolve_failures
from feeders.streams import StreamId
from feeders.work import ClaimLost
from feeders.writer import Writer

log = structlog.get_logger()

MOST_DETAIL_CHARACTERS = 2_000
_GONE = frozenset({Ending.KEPT, Ending.ABSENT, Ending.STALE})

NoteReplay = Callable[[Identity, str], None]
"""Told how a key that a person asked for has ended, once it is off the queue."""

NoteTrouble = Callable[[str, str | None], None]
"""Told that a dependency gives trouble and which, or None that it works again; for /readyz."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is known of a delivered message. `event` is None if it could not be read."""

    delivery: Delivery
    stream: StreamId | None
    identity: Identity
    event: KeyEvent | None

    @property
    def blockable(self) -> StreamId | None:
        """The stream that this message may block, or wait for: none if a person asked for it, or it is no key."""
        return self.stream if self.event is not None and self.event.replay is None else None


class Settler:
    """Decides and carries out verdicts for one term."""

    def __init__(
        self,
        *,
        broker: Broker,
        writer: Writer,
        suspects: Suspects,
        breaker: Breaker,
        attempts: Attempts,
        metrics: Metrics,
        policy: Policy,
        note_trouble: NoteTrouble,
        replayed: NoteReplay,
    ) -> None:
        self._broker = broker
        self._writer = writer
        self._suspects = suspects
        self._breaker = breaker
        self._attempts = attempts
        self._metrics = metrics
        self._policy = policy
        self._note_trouble = note_trouble
        self._replayed = replayed

    async def settle(self, message: Message, walked: Walked, trace: Trace) -> Verdict | None:
        """Gives a message its verdict, and returns it if it was taken.

        A verdict that the queue or the lake did not take is no verdict: the message comes again after its
        ack_wait, and the ledger knows what was loaded.

        Raises:
            LakeFenced: another process writes now.
        """
        stream = walked.stream.id if walked.stream else message.stream
        attempts = self._attempts.count(message.identity, walked.ending)
        blockable = message.blockable
        self._breaker.note(
            blockable, message.identity, walked.ending, reason=walked.reason or walked.ending.value
        )
        verdict = decide_verdict(
            walked.ending,
            attempts=attempts,
            policy=self._policy,
            jitter=draw_jitter(),
            is_blocked=self._breaker.is_blocked(blockable),
        )
        self._observe_dependencies(walked)
        fault.point("settling")
        try:
            await self._carry_out(verdict, message, stream, walked, attempts, trace)
        except LakeFenced:
            raise
        except (Unavailable, LakeError, ClaimLost) as error:
            key = message.event.key if message.event else None
            log.warning("verdict not delivered", key=key, outcome=walked.ending.value, error=str(error))
            return None
        fault.point("settled")
        if not isinstance(verdict, Later):
            self._attempts.forget(message.identity)
            if message.event is not None:
                self._suspects.clear(message.identity)
                if message.event.replay is not None:
                    self._replayed(message.identity, walked.reason or walked.ending.value)
        self._count(stream, walked, verdict, trace)
        self._log(message, stream, walked, verdict, attempts, trace)
        return verdict

    def _observe_dependencies(self, walked: Walked) -> None:
        if walked.ending is Ending.UNAVAILABLE:
            self._note_trouble(walked.reason or "unknown", str(walked.detail.get("error", walked.reason)))
        elif walked.result is not None:
            for dependency in ("s3", "spool", "disk", "postgresql", "lake", "nats"):
                self._note_trouble(dependency, None)

    async def _carry_out(
        self,
        verdict: Verdict,
        message: Message,
        stream: StreamId | None,
        walked: Walked,
        attempts: int,
        trace: Trace,
    ) -> None:
        match verdict:
            case Done():
                await self._resolve_gone(message, walked)
                await message.delivery.done()
            case Later(delay_s=delay_s):
                await message.delivery.later(delay_s)
            case Dead():
                await self._bury(message, stream, walked, attempts, trace)
            case _:
                assert_never(verdict)

    async def _resolve_gone(self, message: Message, walked: Walked) -> None:
        """An object that is gone leaves no dead letter open, also where no row of it ever was in the lake."""
        event = message.event
        if event is None or walked.ending not in _GONE:
            return
        key = (event.bucket, event.key)
        if self._writer.may_have_failed(*key):
            resolved = self._writer.transact(
                "an object is gone",
                lambda transaction: resolve_failures(transaction, keys=[key], resolution="removed"),
            )
            await asyncio.wrap_future(resolved)

    async def _bury(
        self, message: Message, stream: StreamId | None, walked: Walked, attempts: int, trace: Trace
    ) -> None:
        """Records the dead letter in the lake, announces it, and takes the message off the queue."""
        event = message.event
        failure = Failure(
            stream=stream,
            bucket=event.bucket if event else None,
            key=event.key if event else None,
            # Of the object that was judged; the event's may be another version's.
            etag=walked.etag or (event.etag if event else None),
            reason=walked.reason or walked.ending.value,
            attempts=attempts,
            # The schemas are long, and limited where they are made; the log line does without them.
            detail={name: _cut(value) for name, value in walked.detail.items()} | dict(trace.schemas),
        )
        await asyncio.wrap_future(self._writer.submit(failure))
        fault.point("recorded")
        unread = message.delivery if event is None else None
        await self._broker.publish_dead(stream, announcement(failure, unread))
        fault.point("announced")
        await message.delivery.dead()

    def _count(self, stream: StreamId | None, walked: Walked, verdict: Verdict, trace: Trace) -> None:
        labels = _labels(stream)
        metrics, reason = self._metrics, walked.reason or walked.ending.value
        metrics.verdicts.labels(**labels, outcome=walked.ending.value, verdict=_name(verdict)).inc()
        for stage, seconds in trace.stages.items():
            metrics.stage_seconds.labels(stage=stage).observe(seconds)
        if isinstance(verdict, Dead):
            metrics.dead.labels(**labels, reason=reason).inc()
        if isinstance(verdict, Later):
            metrics.retries.labels(cause=reason).inc()
        if walked.ending in (Ending.LOADED, Ending.REPLACED, Ending.REPLAYED):
            metrics.files.labels(**labels).inc()
            metrics.rows.labels(**labels).inc(walked.rows)
            metrics.rescued.labels(**labels).inc(walked.rescued_rows)
            if walked.ending is not Ending.REPLAYED and (age_s := _age_s(walked)) is not None:
                metrics.put_to_staging.labels(**labels).observe(age_s)
        if walked.result is not None:
            metrics.batch_items.observe(walked.result.batch_items)

    def _log(
        self,
        message: Message,
        stream: StreamId | None,
        walked: Walked,
        verdict: Verdict,
        attempts: int,
        trace: Trace,
    ) -> None:
        """The one canonical log line of a message."""
        age_s = _age_s(walked)
        # What was not tried may come back every second.
        write = log.debug if walked.ending is Ending.HELD_BACK else log.info
        write(
            "key",
            key=message.event.key if message.event else None,
            stream=str(stream) if stream else None,
            verdict=_name(verdict),
            outcome=walked.ending.value,
            reason=walked.reason,
            detail={name: _cut(value) for name, value in walked.detail.items()} or None,
            etag=walked.version.etag if walked.version else walked.etag,
            rows=walked.rows,
            rescued_rows=walked.rescued_rows,
            attempts=attempts,
            found_by=message.event.found_by if message.event else None,
            put_to_staging_s=round(age_s, 3) if age_s is not None else None,
            **{f"{stage}_s": round(seconds, 4) for stage, seconds in trace.stages.items()},
        )


def _name(verdict: Verdict) -> str:
    return type(verdict).__name__.lower()


def _labels(stream: StreamId | None) -> dict[str, str]:
    return {"source": stream.source if stream else "_unrouted", "stream": stream.stream if stream else "_"}


def _age_s(walked: Walked) -> float | None:
    if walked.version is None or walked.version.last_modified is None or walked.result is None:
        return None
    return max(0.0, (datetime.now(UTC) - walked.version.last_modified).total_seconds())


def _cut(value: str | int | None) -> str | int | None:
    """A name in a hostile file may be megabytes long."""
    return value[:MOST_DETAIL_CHARACTERS] if isinstance(value, str) else value
