"""What the ledger has and a listing of the bucket lacks, compared inside a reader's DuckDB.

A listed key takes 16 bytes there (its MD5), in a temporary table that DuckDB spills to disk beyond its memory
limit: 10 million objects are 160 MB. Nothing of it is ever in Python but a page at a time.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from feeders.reader import Queryable
from feeders.streams import Stream


@dataclass(frozen=True, kw_only=True)
class GoneKey:
    """A key whose rows are in staging and that the listing lacks, with what the ledger says of its object.

    `modified_s` are seconds since 1970.
    """

    key: str
    etag: str
    version_id: str | None
    size_bytes: int
    modified_s: float | None


@dataclass(frozen=True, kw_only=True)
class Absence:
    """How many of a stream's keys are in staging, how many of these a listing lacks, and how many it has."""

    present: int
    gone: int
    listed: int

    def needs_a_human(self, most_percent: int) -> bool:
        """Says whether so much is gone that rather the listing, or a person's hand, is wrong."""
        return self.gone > 0 and (self.listed == 0 or self.gone * 100 > most_percent * self.present)


def begin_listing(lake: Queryable) -> int | None:
    """Forgets the last listing; returns how far the ledger is, in microseconds: what comes later is not compared."""
    lake.query("CREATE OR REPLACE TEMP TABLE listed (stream INTEGER, hash UHUGEINT)")
    rows = lake.query("SELECT epoch_us(max(loaded_at)) FROM meta.feeder_files")
    return rows[0][0]


def note_listed(lake: Queryable, keys: Sequence[tuple[int, str]]) -> None:
    """Notes listed keys, each with a number that the caller has given to its stream."""
    lake.query(
        "INSERT INTO temp.listed SELECT each.stream, md5_number(each.key)"
        """ FROM (SELECT unnest(from_json(?, '[{"stream": "INTEGER", "key": "VARCHAR"}]')) AS each)""",
        # As text: to bind a list takes DuckDB's client 0.2 ms for each element.
        (json.dumps([{"stream": stream, "key": key} for stream, key in keys]),),
    )


def compare(lake: Queryable, stream: Stream, *, number: int, bucket: str, until: int | None) -> Absence:
    """Compares a stream's ledger with the listing, and keeps what is gone for `gone_page`.

    Only keys that lie in the stream's present places count, and whose last load is not after `until`: an object
    that came while the listing ran is no loss.
    """
    of_stream = (stream.id.source, stream.id.stream, bucket, [f"{place}/" for place in stream.landing])
    lake.query(_FIND_GONE, (*of_stream, until))
    gone = int(lake.query("SELECT count(*) FROM temp.gone")[0][0])
    listed = int(lake.query("SELECT count(*) FROM temp.listed WHERE stream = ?", (number,))[0][0])
    present = int(lake.query(_COUNT_PRESENT, of_stream)[0][0]) if gone else 0
    return Absence(present=present, gone=gone, listed=listed)


_FIND_GONE = """
CREATE OR REPLACE TEMP TABLE gone AS
SELECT key, latest
FROM (
    SELECT
        key,
        arg_max(
            struct_pack(etag, version_id, size_bytes, last_modified, action, loaded_at), (epoch, loaded_at)
        ) AS latest
    FROM meta.feeder_files AS ledger
    ANTI JOIN temp.listed ON md5_number(ledger.key) = listed.hash
    WHERE source = ? AND stream = ? AND bucket = ?
        AND len(list_filter(?::VARCHAR[], lambda place: starts_with(key, place))) > 0
    GROUP BY key
)
WHERE latest.action <> 'removed' AND epoch_us(latest.loaded_at) <= ?
"""
_COUNT_PRESENT = """
SELECT count(*)
FROM (
    SELECT arg_max(action, (epoch, loaded_at)) AS action
    FROM meta.feeder_files
    WHERE source = ? AND stream = ? AND bucket = ?
        AND len(list_filter(?::VARCHAR[], lambda place: starts_with(key, place))) > 0
    GROUP BY key
)
WHERE action <> 'removed'
"""


def gone_page(lake: Queryable, *, after: str, size: int) -> list[GoneKey]:
    """Reads the next keys that `compare` has kept, in the order of the keys; empty after the last."""
    rows = lake.query(
        "SELECT key, latest.etag, latest.version_id, latest.size_bytes, epoch(latest.last_modified) FROM temp.gone"
        " WHERE key > ? ORDER BY key LIMIT ?",
        (after, size),
    )
    return [
        GoneKey(key=key, etag=etag, version_id=version_id, size_bytes=size_bytes, modified_s=modified_s)
        for key, etag, version_id, size_bytes, modified_s in rows
    ]
