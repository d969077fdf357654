"""Notifications that others publish on `{ns}.events.>`: SeaweedFS's own (Go CDK v1 and v2) and S3 event JSON.

Each is read, and the keys that it names are put into the queue; only then it is acknowledged. One that is not
understood is recorded whole as a dead letter, and a sweep looks for what it was about. All of them are hints: what
comes twice, or over another way too, is refused by the queue or known to the ledger.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from consumer.broker import Broker, Delivery
from consumer.errors import Unavailable, Undecodable
from consumer.events import KeyEvent
from consumer.evidence import announcement
from consumer.ingress.decode import decode
from consumer.metrics import Metrics
from consumer.sweeping import Reason
from feeders.errors import LakeError, LakeFenced
from feeders.failures import Failure
from feeders.streams import StreamId, StreamTable
from feeders.writer import Writer

log = structlog.get_logger()

WAY = "notifications"
FETCH_MOST = 256
IDLE_WAIT_S = 30.0
RETRY_S = 1.0
REPAIR_EVERY = 3
LONGEST_RETRY_S = 30.0

Publish = Callable[[KeyEvent, StreamId | None], Awaitable[bool]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The objects that are ours: those of one bucket, below a prefix. No prefix: all of it."""

    bucket: str
    prefix: str

    def holds(self, event: KeyEvent) -> bool:
        """Whether an event is about one of them."""
        below = f"{self.prefix}/" if self.prefix else ""
        return event.bucket == self.bucket and event.key.startswith(below)


class Notifications:
    """Takes notifications in until it is cancelled. For one event loop, of the writer's term."""

    def __init__(
        self,
        broker: Broker,
        place: Place,
        streams: StreamTable,
        *,
        publish: Publish,
        writer: Writer,
        metrics: Metrics,
        gap: Callable[[Reason, str | None], None],
        repair: Callable[[], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._place = place
        self._streams = streams
        self._publish = publish
        self._writer = writer
        self._metrics = metrics
        self._gap = gap
        self._repair = repair

    async def run(self) -> None:
        """Claims them and takes them in.

        Raises:
            LakeFenced: another process writes now.
        """
        failures = 0
        while True:
            try:
                found = await self._broker.fetch_notifications(FETCH_MOST, IDLE_WAIT_S)
                for ended in await asyncio.gather(*map(self._take, found), return_exceptions=True):
                    if ended is not None:
                        raise ended
            except LakeFenced:
                raise
            except (Unavailable, LakeError) as error:
                # What was claimed comes again after ack_wait.
                failures += 1
                log.warning("notifications wait", error=str(error))
                await asyncio.sleep(min(LONGEST_RETRY_S, RETRY_S * 2 ** min(failures - 1, 10)))
                if failures % REPAIR_EVERY == 0:
                    await self._mend()
            else:
                failures = 0

    async def _mend(self) -> None:
        """Somebody may have removed the js_stream, or our subscription: what was published meanwhile is lost."""
        try:
            await self._repair()
        except Unavailable as error:
            log.warning("notifications wait", error=str(error))
        else:
            self._gap(Reason.QUEUE_LOST, "notifications could not be fetched for a while")

    async def _take(self, delivery: Delivery) -> None:
        try:
            events = decode(delivery.payload, delivery.headers, now=datetime.now(UTC))
        except Undecodable as error:
            await self._bury(delivery, error)
            return
        for event in events:
            if self._place.holds(event):
                route = self._streams.route(event.key)
                await self._publish(event, route.stream.id if route else None)
        await delivery.done()

    async def _bury(self, delivery: Delivery, error: Undecodable) -> None:
        """Evidence first: a row of meta.feeder_failures, then the payload on the feed; only then off the queue."""
        detail: dict[str, str | int | None] = {
            "error": error.reason,
            "subject": delivery.subject,
            "sequence": delivery.sequence,
            "bytes": len(delivery.payload),
        }
        failure = Failure(
            stream=None, bucket=None, key=None, etag=None, reason="undecodable", attempts=1, detail=detail
        )
        await asyncio.wrap_future(self._writer.submit(failure))
        await self._broker.publish_dead(None, announcement(failure, delivery))
        await delivery.dead()
        log.warning("undecodable notification", **detail)
        self._metrics.undecodable.labels(way=WAY).inc()
        self._metrics.dead.labels(source="_unrouted", stream="_", reason="undecodable").inc()
        self._gap(Reason.UNDECODABLE, error.reason)
