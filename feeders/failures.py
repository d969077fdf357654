"""Dead letters: `meta.feeder_failures` is the truth, the NATS stream is its feed. Never holds row values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from feeders.lake import Transaction
from feeders.reader import Queryable
from feeders.streams import StreamId


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The evidence of one message given up. `stream` is None for a key of no stream."""

    stream: StreamId | None
    bucket: str | None
    key: str | None
    etag: str | None
    reason: str
    attempts: int
    detail: Mapping[str, str | int | None] = field(default_factory=dict[str, "str | int | None"])


def record_failure(transaction: Transaction, failure: Failure) -> None:
    """Writes one dead letter, and marks older ones of the same object as superseded by it.

    One that does not know its version, as of a replay that was never read, is about that of the letter before: a
    sweep would otherwise find that version in no open letter, and bring it back.
    """
    etag = failure.etag
    if failure.key is not None:
        same = (failure.bucket, failure.key)
        if etag is None:
            etag = transaction.query(
                "SELECT last(etag ORDER BY failed_at) FROM meta.feeder_failures"
                " WHERE resolved_at IS NULL AND bucket IS NOT DISTINCT FROM ? AND key = ?",
                same,
            )[0][0]
        transaction.change(
            "UPDATE meta.feeder_failures SET resolved_at = now(), resolution = 'superseded'"
            " WHERE resolved_at IS NULL AND bucket IS NOT DISTINCT FROM ? AND key = ?",
            same,
        )
    transaction.change(
        "INSERT INTO meta.feeder_failures (source, stream, bucket, key, etag, reason, detail, attempts, failed_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?::JSON, ?, now())",
        (
            failure.stream.source if failure.stream else None,
            failure.stream.stream if failure.stream else None,
            failure.bucket,
            failure.key,
            etag,
            failure.reason,
            json.dumps(dict(failure.detail)),
            failure.attempts,
        ),
    )


def resolve_failures(transaction: Transaction, *, keys: list[tuple[str, str]], resolution: str) -> int:
    """Marks the open dead letters of these (bucket, key) pairs as resolved; returns how many there were."""
    if not keys:
        return 0
    return transaction.change(
        "UPDATE meta.feeder_failures SET resolved_at = now(), resolution = ?"
        " WHERE resolved_at IS NULL AND (bucket, key) IN (SELECT unnest(?), unnest(?))",
        (resolution, [bucket for bucket, _ in keys], [key for _, key in keys]),
    )


def dead_versions(lake: Queryable, keys: list[tuple[str, str]]) -> set[tuple[str, str, str | None]]:
    """Reads which of these (bucket, key) pairs have a dead letter, with the etag it was about.

    One that a person dropped counts: that version was given up for good, and is not to be found again.
    """
    if not keys:
        return set()
    rows = lake.query(
        "SELECT bucket, key, etag FROM meta.feeder_failures"
        " WHERE (resolved_at IS NULL OR starts_with(resolution, 'dropped'))"
        " AND (bucket, key) IN (SELECT unnest(from_json(?, '[\"VARCHAR\"]')), unnest(from_json(?, '[\"VARCHAR\"]')))",
        # As text: a sweep asks for a thousand keys a page, and to bind a list takes DuckDB's client long.
        (json.dumps([bucket for bucket, _ in keys]), json.dumps([key for _, key in keys])),
    )
    return {(bucket, key, etag) for bucket, key, etag in rows}
