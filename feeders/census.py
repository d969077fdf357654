"""Counts for a person who is about to have keys loaded again: what staging has of them, and what the ledger knows."""

import json
from collections.abc import Mapping, Sequence

from feeders.ledger import latest_states
from feeders.reader import Queryable
from feeders.streams import Stream, StreamId
from feeders.types import quote_identifier


def rows_in_staging(lake: Queryable, stream: Stream, keys: Sequence[str]) -> int:
    """Counts the rows that staging has of these objects, row by row: the ledger may be what is doubted."""
    if not keys:
        return 0
    rows = lake.query(
        f"SELECT count(*) FROM staging.{quote_identifier(stream.table)}"
        # The bounds let DuckLake skip files by their statistics.
        " WHERE _source_file BETWEEN ? AND ?"
        " AND _source_file IN (SELECT unnest(from_json(?, '[\"VARCHAR\"]')))",
        (min(keys, key=str.encode), max(keys, key=str.encode), json.dumps(keys)),
    )
    return int(rows[0][0])


def known_rows(lake: Queryable, bucket: str, etags: Mapping[str, str]) -> dict[str, int]:
    """Reads how many rows those of these object versions have that the ledger says are loaded; by key."""
    states = latest_states(lake, [(bucket, key) for key in etags])
    return {
        key: state.rows for (_, key), state in states.items() if state.is_present and state.etag == etags[key]
    }


def loaded_keys(
    lake: Queryable, bucket: str, *, prefixes: Sequence[str], stream: StreamId | None, limit: int
) -> list[str]:
    """Reads the keys below these prefixes, of a stream or of any, that the ledger says are loaded."""
    source, name = (stream.source, stream.stream) if stream else (None, None)
    rows = lake.query(
        "SELECT key FROM meta.feeder_files WHERE bucket = $1"
        " AND ($2::VARCHAR IS NULL OR (source = $2 AND stream = $3))"
        " AND len(list_filter(from_json($4, '[\"VARCHAR\"]'), lambda prefix: starts_with(key, prefix))) > 0"
        " GROUP BY key HAVING last(action ORDER BY epoch, loaded_at) <> 'removed' ORDER BY key LIMIT $5",
        (bucket, source, name, json.dumps(list(prefixes)), limit),
    )
    return [key for (key,) in rows]
