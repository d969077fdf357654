"""What an audit found: counts by stream, and by name the keys that nothing explains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from feeders.presence import Absence, GoneKey
from feeders.reader import Queryable, Row
from feeders.streams import StreamId

Kind = Literal["missing", "gone", "footer", "rows"]
"""missing: in the bucket, and neither loaded, dead nor pending. gone: loaded and not in the bucket, of a stream whose
rows go with their objects, and no removal is pending. footer: loaded, and its number of rows can't be read. rows:
staging has another number of rows than it should."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """What there is of a stream, or of no stream (None).

    Attributes:
        objects: in the bucket: loaded + dead + pending + missing.
        retained: keys whose objects are gone and whose rows stay (`on_delete: keep`).
        leaving: keys whose objects are gone and whose removal is pending.
        gone: those whose removal is not.
        arrived: keys that were loaded while the audit ran and that it did not see in the bucket.
        rows_in_files: of the loaded objects: as their footers say, or the ledger where they were not read.
        rows_kept: of retained, leaving, gone and arrived keys, and of earlier versions of dead, pending and missing
            ones, as the ledger says.
        rows_in_staging: counted there; None: not counted.
        by_ledger: loaded objects that changed before their footers were read: the ledger's number is taken.
        unexplained: keys that nothing explains.
    """

    stream: StreamId | None
    objects: int
    loaded: int
    dead: int
    pending: int
    missing: int
    retained: int
    leaving: int
    gone: int
    arrived: int
    rows_in_files: int
    rows_kept: int
    rows_in_staging: int | None
    by_ledger: int
    unexplained: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A key that nothing explains.

    Attributes:
        key: empty for rows that say of no object that they come from it.
        etag: of the object in the bucket; None if there is none.
        loaded_etag: of the version whose rows are in staging, as the ledger says; None if it says that of none.
        rows_expected: what staging has to have of it.
        rows_in_staging: what it has; None: not counted.
    """

    kind: Kind
    stream: StreamId | None
    key: str
    etag: str | None
    size_bytes: int | None
    modified_s: float | None
    loaded_etag: str | None
    rows_expected: int
    rows_in_staging: int | None


_KIND = (
    "CASE WHEN state IN ('missing', 'gone') THEN state WHEN footer = 'unreadable' THEN 'footer'"
    " WHEN staged <> expected THEN 'rows' END"
)


def counts(lake: Queryable) -> list[Count]:
    """Counts by stream: of all that are looked at, and of whatever else was found; of no stream last."""
    rows = lake.query(f"""
WITH sums AS (
    SELECT
        source, stream, count(etag) AS objects,
        count(*) FILTER (state = 'loaded') AS loaded, count(*) FILTER (state = 'dead') AS dead,
        count(*) FILTER (state = 'pending') AS pending, count(*) FILTER (state = 'missing') AS missing,
        count(*) FILTER (state = 'retained') AS retained, count(*) FILTER (state = 'leaving') AS leaving,
        count(*) FILTER (state = 'gone') AS gone, count(*) FILTER (state = 'arrived') AS arrived,
        sum(expected) FILTER (state = 'loaded') AS rows_in_files,
        sum(expected) FILTER (state <> 'loaded') AS rows_kept, sum(staged) AS rows_in_staging,
        count(*) FILTER (footer = 'changed') AS by_ledger, count({_KIND}) AS unexplained
    FROM temp.facts
    GROUP BY ALL
)
SELECT
    coalesce(s.source, t.source) AS source, coalesce(s.stream, t.stream) AS stream,
    s.objects, s.loaded, s.dead, s.pending, s.missing, s.retained, s.leaving, s.gone, s.arrived,
    s.rows_in_files::BIGINT, s.rows_kept::BIGINT, s.rows_in_staging::BIGINT, s.by_ledger, s.unexplained
FROM sums AS s FULL JOIN temp.streams AS t ON s.source = t.source AND s.stream = t.stream
ORDER BY source NULLS LAST, stream
""")
    return [
        Count(
            stream=stream_of(source, stream),
            objects=objects or 0,
            loaded=loaded or 0,
            dead=dead or 0,
            pending=pending or 0,
            missing=missing or 0,
            retained=retained or 0,
            leaving=leaving or 0,
            gone=gone or 0,
            arrived=arrived or 0,
            rows_in_files=in_files or 0,
            rows_kept=kept or 0,
            rows_in_staging=staged,
            by_ledger=by_ledger or 0,
            unexplained=unexplained or 0,
        )
        for source, stream, objects, loaded, dead, pending, missing, retained, leaving, gone, arrived, in_files, kept,
        staged, by_ledger, unexplained in rows
    ]  # fmt: skip


_FINDING = "source, stream, key, etag, size_bytes, modified_s, present, loaded_etag, expected, staged"
_FIRST = ("", "", "")


def findings_page(lake: Queryable, *, after: Finding | None, size: int) -> list[Finding]:
    """Gives the next keys that nothing explains, by key, of stream after stream; empty after the last."""
    last = _FIRST if after is None else (after.key, *_names(after.stream))
    rows = lake.query(
        f"SELECT {_KIND} AS kind, {_FINDING} FROM temp.facts WHERE kind IS NOT NULL"
        " AND (key, coalesce(source, ''), coalesce(stream, '')) > (?, ?, ?)"
        " ORDER BY key, coalesce(source, ''), coalesce(stream, '') LIMIT ?",
        (*last, size),
    )
    return [_finding(row) for row in rows]


def _names(stream: StreamId | None) -> tuple[str, str]:
    return (stream.source, stream.stream) if stream else ("", "")


def _finding(row: Row) -> Finding:
    kind, source, stream, key, etag, size_bytes, modified_s, present, loaded_etag, expected, staged = row
    return Finding(
        kind=cast("Kind", kind),
        stream=stream_of(source, stream),
        key=key,
        etag=etag,
        size_bytes=size_bytes,
        modified_s=modified_s,
        loaded_etag=loaded_etag if present else None,
        rows_expected=expected,
        rows_in_staging=staged,
    )


def kinds(lake: Queryable) -> Mapping[str, int]:
    """Counts the keys that nothing explains, by kind."""
    rows = lake.query(
        f"SELECT {_KIND} AS kind, count(*) FROM temp.facts WHERE kind IS NOT NULL GROUP BY ALL ORDER BY 1"
    )
    return {kind: int(number) for kind, number in rows}


def differing_page(lake: Queryable, *, after: str, size: int) -> list[tuple[Finding, GoneKey]]:
    """Gives the next keys that are missing or gone, by key, each with what the ledger says of its object."""
    rows = lake.query(
        f"SELECT state, {_FINDING}, version_id, loaded_bytes, loaded_modified_s FROM temp.facts"
        " WHERE state IN ('missing', 'gone') AND key > ? ORDER BY key LIMIT ?",
        (after, size),
    )
    return [
        (
            _finding(row[:-3]),
            GoneKey(
                key=row[3], etag=row[8] or "", version_id=row[-3], size_bytes=row[-2] or 0, modified_s=row[-1]
            ),
        )
        for row in rows
    ]


def absences(lake: Queryable) -> Mapping[StreamId, Absence]:
    """How much of each stream is gone, of how many keys that were looked for."""
    rows: Sequence[Row] = lake.query(
        "SELECT source, stream, count(*) FILTER (present), count(*) FILTER (state = 'gone'), count(etag)"
        " FROM temp.facts WHERE source IS NOT NULL GROUP BY ALL HAVING count(*) FILTER (state = 'gone') > 0"
    )
    return {
        StreamId(source=source, stream=stream): Absence(present=present, gone=gone, listed=listed)
        for source, stream, present, gone, listed in rows
    }


def stream_of(source: str | None, stream: str | None) -> StreamId | None:
    """The stream of these names; None where there is none."""
    return StreamId(source=source, stream=stream) if source is not None and stream is not None else None
