"""An audit's facts: what the bucket lists, what ledger, dead letters and staging say of it, and what the queue holds.

They lie in temporary tables of a reader's DuckDB, which spills them to disk beyond its memory limit: nothing of them
is ever in Python but a page at a time. What the lake says of a key, its rows in staging too, is read at one snapshot,
so that a load between two statements makes no difference. `feeders.audit_findings` reads what came of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from feeders.reader import Queryable
from feeders.streams import Stream, StreamId
from feeders.types import quote_identifier


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which objects an audit is about.

    Attributes:
        bucket: the landing bucket.
        prefixes: a key in scope begins with one of these.
        begins: what has to be listed to see all keys in scope: of some days less than `prefixes`.
        stream: only objects in this stream's places; None: of all streams and of none.
        days: only objects whose key names a day from the first to the second.
        is_whole: nothing but the stream narrows it: then all rows of its tables count, wherever they come from.
    """

    bucket: str
    prefixes: tuple[str, ...]
    begins: tuple[str, ...]
    stream: StreamId | None
    days: tuple[date, date] | None
    is_whole: bool


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An object as the bucket has it; `modified_s` are seconds since 1970, `stream` is None for a key of none."""

    key: str
    etag: str
    size_bytes: int
    modified_s: float | None
    stream: StreamId | None


def begin_audit(lake: Queryable, scope: Scope, streams: Sequence[Stream]) -> None:
    """Makes the tables, and notes how far the ledger is: what is loaded from now on is not missed in the listing."""
    for name, columns in _TABLES.items():
        lake.query(f"CREATE OR REPLACE TEMP TABLE {name} ({columns})")
    first, last = scope.days or (None, None)
    stream = scope.stream
    lake.query(
        "INSERT INTO temp.scope SELECT $1, from_json($2, '[\"VARCHAR\"]'), $3, $4, $5, $6, $7,"
        " coalesce((SELECT max(epoch_us(loaded_at)) FROM meta.feeder_files), -1)",
        (
            scope.bucket,
            json.dumps(scope.prefixes),
            first,
            last,
            scope.is_whole,
            stream.source if stream else None,
            stream.stream if stream else None,
        ),
    )
    counted = [
        {
            "source": each.id.source,
            "stream": each.id.stream,
            "keeps": each.on_delete == "keep",
            "places": [f"{place}/" for place in each.landing],
        }
        for each in streams
    ]
    lake.query(
        f"INSERT INTO temp.streams SELECT unnest(from_json(?, '{_STREAM}'), recursive := true)",
        (json.dumps(counted),),
    )


_STREAM = json.dumps([{"source": "VARCHAR", "stream": "VARCHAR", "keeps": "BOOLEAN", "places": ["VARCHAR"]}])
_SEEN = {"key": "VARCHAR", "etag": "VARCHAR", "size_bytes": "BIGINT", "modified_s": "DOUBLE"}
_SEEN_OF = json.dumps([_SEEN | {"source": "VARCHAR", "stream": "VARCHAR"}])
_OBJECT = "key VARCHAR, etag VARCHAR, size_bytes BIGINT, modified_s DOUBLE, source VARCHAR, stream VARCHAR"
_FACT = (
    ", present BOOLEAN, loaded_etag VARCHAR, version_id VARCHAR, loaded_bytes BIGINT, loaded_modified_s DOUBLE,"
    " state VARCHAR, expected BIGINT, staged BIGINT, footer VARCHAR"
)
_TABLES = {
    "scope": "bucket VARCHAR, prefixes VARCHAR[], first DATE, last DATE, is_whole BOOLEAN, source VARCHAR,"
    " stream VARCHAR, until BIGINT",
    "streams": "source VARCHAR, stream VARCHAR, keeps BOOLEAN, places VARCHAR[]",
    "listed": _OBJECT,
    "seen_again": _OBJECT,
    "asked": "key VARCHAR",
    "staged": "source VARCHAR, stream VARCHAR, key VARCHAR, rows BIGINT",
    "queued": "subject VARCHAR, identity VARCHAR, key VARCHAR, event VARCHAR",
    "footers": "key VARCHAR, rows BIGINT, verdict VARCHAR",
    "facts": _OBJECT + _FACT,
}


def day_of(key: str) -> str:
    """The day that a key names, as `feeders.streams` reads it; null if it names none."""
    hive = rf"regexp_extract({key}, '(?:^|/)(year=[0-9]{{4}}/month=[0-9]{{2}}/day=[0-9]{{2}})/[^/]+\.parquet\z', 1)"
    flat = rf"regexp_extract({key}, '(?:^|/)([0-9]{{4}}_[0-9]{{2}}_[0-9]{{2}})_[0-9]+_[0-9]+\.parquet\z', 1)"
    digits = f"ltrim(regexp_replace(coalesce(nullif({hive}, ''), {flat}), '[^0-9]+', '-', 'g'), '-')"
    return f"try_cast({digits} AS DATE)"


def _is_below(key: str) -> str:
    return f"len(list_filter(s.prefixes, lambda prefix: starts_with({key}, prefix))) > 0"


def _is_in_scope(key: str) -> str:
    return f"({_is_below(key)} AND (s.first IS NULL OR {day_of(key)} BETWEEN s.first AND s.last))"


def note_objects(lake: Queryable, objects: Sequence[Seen], *, again: bool = False) -> None:
    """Notes objects that the bucket has; `again` those that were looked at once more."""
    documents = [
        {
            "key": each.key,
            "etag": each.etag,
            "size_bytes": each.size_bytes,
            "modified_s": each.modified_s,
            "source": each.stream.source if each.stream else None,
            "stream": each.stream.stream if each.stream else None,
        }
        for each in objects
    ]
    lake.query(
        f"INSERT INTO temp.{'seen_again' if again else 'listed'}"
        f" SELECT o.* FROM (SELECT unnest(from_json(?, '{_SEEN_OF}'), recursive := true)) AS o, temp.scope AS s"
        f" WHERE {_is_in_scope('o.key')}",
        # As text: to bind a list takes DuckDB's client 0.2 ms for each element.
        (json.dumps(documents),),
    )


def ask_again(lake: Queryable) -> int:
    """Puts the keys that differ up for `take_facts`; returns how many they are."""
    lake.query(
        "CREATE OR REPLACE TEMP TABLE asked AS SELECT key FROM temp.facts WHERE state IN ('missing', 'gone')"
    )
    lake.query("CREATE OR REPLACE TEMP TABLE seen_again AS FROM temp.listed LIMIT 0")
    return int(lake.query("SELECT count(*) FROM temp.asked")[0][0])


def take_facts(
    lake: Queryable, scope: Scope, streams: Sequence[Stream], *, count_rows: bool, again: bool = False
) -> int:
    """Takes down what the lake says at this moment of every key in scope, or `again` of those that were asked for.

    Returns:
        The snapshot that all of it was read at.
    """
    snapshot = int(lake.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])
    if again:
        lake.query("DELETE FROM temp.listed WHERE key IN (FROM temp.asked)")
        lake.query(
            "INSERT INTO temp.listed SELECT o.* FROM temp.seen_again AS o SEMI JOIN temp.asked USING (key)"
        )
        lake.query("DELETE FROM temp.facts WHERE key IN (FROM temp.asked)")
    bounds = _bounds(lake, scope, again=again)
    lake.query(_ledger(again=again), (snapshot, *bounds))
    lake.query("DELETE FROM temp.staged")
    if count_rows:
        there = {
            name
            for (name,) in lake.query(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lakehouse' AND schema_name = 'staging'"
            )
        }
        for each in streams:
            if each.table in there:
                named = (each.id.source, each.id.stream)
                lake.query(_count(each, again=again), (snapshot, *bounds, *named))
    lake.query(_facts(again=again), (snapshot, count_rows))
    return snapshot


def _bounds(lake: Queryable, scope: Scope, *, again: bool) -> tuple[str | None, str | None]:
    """Texts between which all keys lie that are asked for, by which DuckLake skips files; None for no bound."""
    if again:
        return lake.query("SELECT min(key), max(key) FROM temp.asked")[0][:2]  # pyright: ignore[reportReturnType]
    if scope.is_whole:
        return None, None
    # What begins so is below the text that has one more in its last place.
    above = [each[:-1] + chr(ord(each[-1]) + 1) for each in scope.begins if each and ord(each[-1]) < 0x7F]
    has_bound = len(above) == len(scope.begins)
    return min(scope.begins, key=str.encode), max(above, key=str.encode) if has_bound else None


def _ledger(*, again: bool) -> str:
    asked = "f.key IN (FROM temp.asked)"
    of_stream = "s.is_whole AND (s.source IS NULL OR (f.source = s.source AND f.stream = s.stream))"
    wanted = asked if again else f"({_is_in_scope('f.key')} OR ({of_stream}))"
    return f"""
CREATE OR REPLACE TEMP TABLE ledger AS
SELECT key, unnest(latest)
FROM (
    SELECT
        f.key,
        arg_max(
            struct_pack(
                source := f.source, stream := f.stream, bucket := f.bucket, etag := f.etag,
                version_id := f.version_id, size_bytes := f.size_bytes, modified_s := epoch(f.last_modified),
                action := f.action, rows := f.rows, loaded_us := epoch_us(f.loaded_at)
            ),
            (f.bucket = s.bucket, f.epoch, f.loaded_at)
        ) AS latest
    FROM (FROM meta.feeder_files AT (VERSION => $1)) AS f CROSS JOIN temp.scope AS s
    WHERE ($2 IS NULL OR f.key >= $2) AND ($3 IS NULL OR f.key <= $3) AND {wanted}
    GROUP BY f.key
)
"""


def _count(stream: Stream, *, again: bool) -> str:
    asked = "f._source_file IN (FROM temp.asked)"
    wanted = asked if again else f"(s.is_whole OR {_is_in_scope('f._source_file')})"
    return f"""
INSERT INTO temp.staged
SELECT $4, $5, coalesce(f._source_file, ''), count(*)
FROM (FROM staging.{quote_identifier(stream.table)} AT (VERSION => $1)) AS f CROSS JOIN temp.scope AS s
WHERE ($2 IS NULL OR f._source_file >= $2) AND ($3 IS NULL OR f._source_file <= $3) AND {wanted}
GROUP BY ALL
"""


def _facts(*, again: bool) -> str:
    objects = "temp.listed" if not again else "(FROM temp.listed SEMI JOIN temp.asked USING (key))"
    return f"""
INSERT INTO temp.facts
WITH known AS (
    SELECT
        coalesce(o.key, l.key) AS key,
        coalesce(l.source, o.source) AS source,
        coalesce(l.stream, o.stream) AS stream,
        o.etag, o.size_bytes, o.modified_s,
        coalesce(l.action <> 'removed', false) AS present,
        l.etag AS loaded_etag, l.version_id, l.size_bytes AS loaded_bytes, l.modified_s AS loaded_modified_s,
        l.bucket, l.rows AS loaded_rows, coalesce(l.loaded_us, 0) AS loaded_us
    FROM {objects} AS o FULL JOIN temp.ledger AS l ON o.key = l.key
),

dead AS (
    SELECT DISTINCT f.key, f.etag
    FROM (FROM meta.feeder_failures AT (VERSION => $1)) AS f CROSS JOIN temp.scope AS s
    WHERE f.bucket = s.bucket AND (f.resolved_at IS NULL OR starts_with(f.resolution, 'dropped'))
),

judged AS (
    SELECT
        k.*,
        CASE
            WHEN k.etag IS NOT NULL AND k.present AND k.bucket = s.bucket AND k.loaded_etag = k.etag THEN 'loaded'
            WHEN k.etag IS NOT NULL AND d.key IS NOT NULL THEN 'dead'
            WHEN k.etag IS NOT NULL THEN 'missing'
            WHEN NOT k.present THEN 'nothing'
            WHEN k.loaded_us > s.until THEN 'arrived'
            -- Nobody looks for what is not in its stream's places, or of no stream that we know.
            WHEN k.bucket <> s.bucket OR NOT ({_is_below("k.key")}) THEN 'retained'
            WHEN st.keeps IS NULL OR st.keeps THEN 'retained'
            WHEN len(list_filter(st.places, lambda place: starts_with(k.key, place))) = 0 THEN 'retained'
            ELSE 'gone'
        END AS state
    FROM known AS k
    CROSS JOIN temp.scope AS s
    LEFT JOIN temp.streams AS st ON st.source = k.source AND st.stream = k.stream
    LEFT JOIN dead AS d ON d.key = k.key AND d.etag = k.etag
)

SELECT
    coalesce(j.key, t.key), j.etag, j.size_bytes, j.modified_s,
    coalesce(j.source, t.source), coalesce(j.stream, t.stream),
    coalesce(j.present, false), j.loaded_etag, j.version_id, j.loaded_bytes, j.loaded_modified_s,
    coalesce(j.state, 'nothing'),
    CASE WHEN j.present THEN j.loaded_rows ELSE 0 END,
    CASE
        WHEN $2 AND (coalesce(j.source, t.source), coalesce(j.stream, t.stream)) IN
            (SELECT (source, stream) FROM temp.streams)
        THEN coalesce(t.rows, 0)
    END,
    NULL
FROM judged AS j
FULL JOIN temp.staged AS t ON j.key = t.key AND j.source = t.source AND j.stream = t.stream
"""
