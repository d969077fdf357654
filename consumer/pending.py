"""How many keys wait in the queue, by whose they are: for the gauges, and for people."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime

from consumer.broker import Broker
from consumer.subjects import Lane, Queued
from feeders.streams import StreamId


@dataclass(frozen=True, kw_only=True)
class Pending:
    """Keys in the queue.

    Attributes:
        source: of their stream; "_unrouted" for keys of no stream, "_replay" for replays.
        stream: its name; "_" for those two.
        waiting: keys that nobody has claimed yet.
        claimed: keys in work.
        oldest_at: when the first of them was put into the queue; None if there is none.
    """

    source: str
    stream: str
    waiting: int
    claimed: int
    oldest_at: datetime | None = None


async def pending_keys(broker: Broker, streams: Iterable[StreamId]) -> AsyncIterator[Pending]:
    """Asks the queue for the keys of each stream, then those of no stream, then replays.

    Raises:
        Unavailable: no answer, or a subscription is gone.
    """
    for of in (*streams, None, *Lane):
        waiting, claimed = await broker.pending(of)
        source, stream = names_of(of)
        oldest_at = await broker.oldest(of) if waiting or claimed else None
        yield Pending(source=source, stream=stream, waiting=waiting, claimed=claimed, oldest_at=oldest_at)


def names_of(of: Queued) -> tuple[str, str]:
    """Source and stream, or what stands for them where there is no stream."""
    match of:
        case StreamId():
            return of.source, of.stream
        case Lane():
            return of.value, "_"
        case None:
            return "_unrouted", "_"
