"""Paused streams: `meta.feeder_pauses` has a row for each, and outlives every process and all that NATS may lose.

Whoever pauses or resumes a stream replaces its cursor in the same transaction: without a row that is deleted, two
such transactions, or one of a writer whose term is over, could both commit.
"""

from dataclasses import dataclass
from datetime import datetime

from feeders.cursors import read_cursors, replace_cursors
from feeders.lake import Transaction
from feeders.letters import moment
from feeders.reader import Queryable
from feeders.streams import StreamId


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A stream that is paused: since when, by whom, and why."""

    stream: StreamId
    since: datetime
    by: str
    reason: str


def read_pauses(lake: Queryable) -> list[Pause]:
    """Reads which streams are paused, by name."""
    rows = lake.query(
        "SELECT source, stream, epoch_us(since), by_whom, reason FROM meta.feeder_pauses ORDER BY source, stream"
    )
    return [
        Pause(stream=StreamId(source=source, stream=stream), since=moment(since), by=by, reason=reason)
        for source, stream, since, by, reason in rows
    ]


def pause_stream(transaction: Transaction, stream: StreamId, *, by: str, reason: str) -> bool:
    """Pauses a stream; False if it was already: then its row stays as it is."""
    if any(pause.stream == stream for pause in read_pauses(transaction)):
        return False
    _fence(transaction, stream)
    transaction.change(
        "INSERT INTO meta.feeder_pauses (source, stream, since, by_whom, reason) VALUES (?, ?, now(), ?, ?)",
        (stream.source, stream.stream, by, reason),
    )
    return True


def resume_stream(transaction: Transaction, stream: StreamId) -> bool:
    """Ends a pause; False if there was none."""
    removed = transaction.change(
        "DELETE FROM meta.feeder_pauses WHERE source = ? AND stream = ?", (stream.source, stream.stream)
    )
    if removed:
        _fence(transaction, stream)
    return removed > 0


def pause_json(pause: Pause) -> dict[str, object]:
    """The pause as JSON."""
    return {
        "source": pause.stream.source,
        "stream": pause.stream.stream,
        "since": pause.since.isoformat(),
        "by": pause.by,
        "reason": pause.reason,
    }


def _fence(transaction: Transaction, stream: StreamId) -> None:
    replace_cursors(transaction, read_cursors(transaction, [stream]))
