"""Looking through the dead letters of `meta.feeder_failures`, and putting some aside for good."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from feeders.lake import Transaction
from feeders.reader import Queryable
from feeders.streams import StreamId

LetterState = Literal["open", "any"]


@dataclass(frozen=True, kw_only=True)
class LetterFilter:
    """Which dead letters: those that fit all of these; None fits every one.

    Attributes:
        reason: why they are dead, by the very word.
        stream: whose they are.
        key: the object's key.
        prefix: what the object's key begins with.
        state: "open" ones only, or those too that were resolved.
    """

    reason: str | None = None
    stream: StreamId | None = None
    key: str | None = None
    prefix: str | None = None
    state: LetterState = "open"

    def parameters(self) -> tuple[object, ...]:
        """The bound values of `_WHERE`."""
        source, stream = (self.stream.source, self.stream.stream) if self.stream else (None, None)
        return (self.state == "any", self.reason, source, stream, self.key, self.prefix)


_WHERE = (
    " WHERE ($1 OR resolved_at IS NULL) AND ($2::VARCHAR IS NULL OR reason = $2)"
    " AND ($3::VARCHAR IS NULL OR (source = $3 AND stream = $4))"
    " AND ($5::VARCHAR IS NULL OR key = $5) AND ($6::VARCHAR IS NULL OR starts_with(key, $6))"
)


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A dead letter. Without key it is a message that was no key event; `detail` is a JSON object's text."""

    stream: StreamId | None
    bucket: str | None
    key: str | None
    etag: str | None
    reason: str
    detail: str
    attempts: int
    failed_at: datetime
    resolved_at: datetime | None
    resolution: str | None


@dataclass(frozen=True, kw_only=True)
class LetterCount:
    """How many dead letters of a stream have a reason; the oldest and the newest."""

    stream: StreamId | None
    reason: str
    letters: int
    first_failed_at: datetime
    last_failed_at: datetime


def find_letters(lake: Queryable, which: LetterFilter, *, limit: int) -> list[Letter]:
    """Reads dead letters, the newest first."""
    rows = lake.query(
        "SELECT source, stream, bucket, key, etag, reason, detail::VARCHAR, attempts, epoch_us(failed_at),"
        f" epoch_us(resolved_at), resolution FROM meta.feeder_failures{_WHERE} ORDER BY failed_at DESC, key LIMIT $7",
        (*which.parameters(), limit),
    )
    return [
        Letter(
            stream=_stream(source, stream),
            bucket=bucket,
            key=key,
            etag=etag,
            reason=reason,
            detail=detail or "{}",
            attempts=attempts,
            failed_at=moment(failed_at),
            resolved_at=None if resolved_at is None else moment(resolved_at),
            resolution=resolution,
        )
        for source, stream, bucket, key, etag, reason, detail, attempts, failed_at, resolved_at, resolution in rows
    ]


def count_letters(lake: Queryable, which: LetterFilter) -> list[LetterCount]:
    """Counts dead letters by stream and reason, the most first."""
    rows = lake.query(
        "SELECT source, stream, reason, count(*), epoch_us(min(failed_at)), epoch_us(max(failed_at))"
        f" FROM meta.feeder_failures{_WHERE} GROUP BY ALL ORDER BY count(*) DESC, reason, source, stream",
        which.parameters(),
    )
    return [
        LetterCount(
            stream=_stream(source, stream),
            reason=reason,
            letters=letters,
            first_failed_at=moment(first),
            last_failed_at=moment(last),
        )
        for source, stream, reason, letters, first, last in rows
    ]


def dead_keys(lake: Queryable, which: LetterFilter, *, bucket: str, limit: int) -> list[str]:
    """Reads the keys of dead letters about objects of this bucket, each once, sorted."""
    rows = lake.query(
        f"SELECT DISTINCT key FROM meta.feeder_failures{_WHERE} AND bucket = $7 AND key IS NOT NULL"
        " ORDER BY key LIMIT $8",
        (*which.parameters(), bucket, limit),
    )
    return [key for (key,) in rows]


def count_without_object(lake: Queryable, which: LetterFilter, *, bucket: str) -> int:
    """Counts the dead letters that are about no object of this bucket, but about a message or another bucket."""
    rows = lake.query(
        f"SELECT count(*) FROM meta.feeder_failures{_WHERE} AND (key IS NULL OR bucket IS DISTINCT FROM $7)",
        (*which.parameters(), bucket),
    )
    return int(rows[0][0])


def drop_letters(transaction: Transaction, which: LetterFilter, *, resolution: str) -> int:
    """Resolves the open dead letters among these; returns how many there were."""
    source, stream = (which.stream.source, which.stream.stream) if which.stream else (None, None)
    return transaction.change(
        "UPDATE meta.feeder_failures SET resolved_at = now(), resolution = $1 WHERE resolved_at IS NULL"
        " AND ($2::VARCHAR IS NULL OR reason = $2) AND ($3::VARCHAR IS NULL OR (source = $3 AND stream = $4))"
        " AND ($5::VARCHAR IS NULL OR key = $5) AND ($6::VARCHAR IS NULL OR starts_with(key, $6))",
        (resolution, which.reason, source, stream, which.key, which.prefix),
    )


def letter_json(letter: Letter) -> dict[str, object]:
    """The letter as JSON, with its detail as an object."""
    return {
        "source": letter.stream.source if letter.stream else None,
        "stream": letter.stream.stream if letter.stream else None,
        "bucket": letter.bucket,
        "key": letter.key,
        "etag": letter.etag,
        "reason": letter.reason,
        "detail": json.loads(letter.detail),
        "attempts": letter.attempts,
        "failed_at": letter.failed_at.isoformat(),
        "resolved_at": letter.resolved_at.isoformat() if letter.resolved_at else None,
        "resolution": letter.resolution,
    }


def _stream(source: str | None, stream: str | None) -> StreamId | None:
    return StreamId(source=source, stream=stream) if source is not None and stream is not None else None


def moment(microseconds: int) -> datetime:
    """Makes a time of microseconds: DuckDB's client needs another package for its own times with a zone."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
