"""A lake that another program filled: what it holds of our streams, and how far that program says it came.

Everything is read at one snapshot, so that a program that still writes makes no difference to what is found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from feeders.apply import found_columns, require_schema_version
from feeders.ddl import diff_table
from feeders.lake import LakeMisconfigured
from feeders.reader import Queryable
from feeders.streams import LOADER_COLUMNS, Column, Stream, StreamId, StreamTable
from feeders.tables import META_SCHEMA, STAGING_SCHEMA, Table
from feeders.types import TypeSyntaxError, fold, parse_type, quote_identifier

RAW_ID = "_airbyte_raw_id"
SOURCE_FILE = "_source_file"
RESCUED = "_rescued_data"
_CURSOR_COLUMNS = ("source", "stream", "cursor_path")
Columns = Mapping[tuple[str, str], tuple[Column, ...]]


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a stream was loaded: up to a key in UTF-8 byte order, or up to objects of a time."""

    key: str | None = None
    until: datetime | None = None

    def covers(self, key: str, last_modified: datetime) -> bool:
        """Says whether an object is at or before the position."""
        if self.key is not None and key.encode() > self.key.encode():
            return False
        return self.until is None or last_modified <= self.until

    def __str__(self) -> str:
        return self.key if self.key is not None else f"{self.until:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, kw_only=True)
class OldTable:
    """A stream's table as the other program left it.

    Attributes:
        columns: of the table; None if there is none.
        rows: how many it has.
        cursor: the key at which the lake's own cursor stands; None if it has none.
        is_known: the ledger knows files of the stream, so there is nothing to take over.
    """

    stream: Stream
    columns: tuple[Column, ...] | None
    rows: int
    cursor: str | None
    is_known: bool

    @property
    def has_source(self) -> bool:
        """Says whether its rows may say which file they are from."""
        return has_column(self.columns or (), SOURCE_FILE)

    @property
    def columns_held(self) -> tuple[Column, ...]:
        """What a file is read with: what these don't hold, the table can't have. Without rows, those of `ddl/`."""
        if not self.rows or self.columns is None:
            return self.stream.columns
        ours = {fold(column.name) for column in self.stream.columns}
        loaders = {fold(column.name) for column in LOADER_COLUMNS}
        return tuple(
            column
            for column in self.columns
            if fold(column.name) not in loaders and (fold(column.name) in ours or _is_type(column.type))
        )


@dataclass(frozen=True, kw_only=True)
class OldLake:
    """What was found at a snapshot; `unknown` are tables in staging of which no file of `ddl/` tells."""

    snapshot: int
    tables: tuple[OldTable, ...]
    unknown: tuple[str, ...]


def look_at_lake(lake: Queryable, tables: Sequence[Table], streams: StreamTable, *, bucket: str) -> OldLake:
    """Looks at the streams' tables, cursors and ledger; changes nothing.

    Raises:
        LakeMisconfigured: the lake can't be taken over as it is.
        DdlRefused: a table has a type that can't become that of `ddl/`.
    """
    snapshot = int(lake.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])
    require_schema_version(lake)
    found = found_columns(lake)
    cursors = _cursors(lake, found.get((META_SCHEMA, "feeder_cursors")), snapshot, bucket=bucket)
    known = _streams_of_ledger(lake, found, snapshot)
    old = tuple(
        OldTable(
            stream=stream,
            columns=columns,
            rows=0 if columns is None else _count(lake, stream, snapshot),
            cursor=cursors.get(stream.id),
            is_known=stream.id in known,
        )
        for stream in streams
        for columns in (found.get((STAGING_SCHEMA, stream.table)),)
    )
    for table in tables:
        name = f"{table.schema}.{table.name}"
        diff_table(table.columns, found.get((table.schema, table.name)), table=name)
    for each in old:
        if each.rows and not each.is_known:
            _require_matchable(each)
    ours = {stream.table for stream in streams}
    return OldLake(
        snapshot=snapshot,
        tables=old,
        unknown=tuple(
            f"{schema}.{name}" for schema, name in found if schema == STAGING_SCHEMA and name not in ours
        ),
    )


def has_column(columns: Iterable[Column], name: str) -> bool:
    """Says whether there is a column of this name, which DuckDB compares without case."""
    return any(fold(column.name) == fold(name) for column in columns)


def _is_type(text: str) -> bool:
    """Says whether a type is one that a file's column can have here; DuckDB has more."""
    try:
        parse_type(text)
    except TypeSyntaxError:
        return False
    return True


def table_at(stream: Stream, snapshot: int) -> str:
    """A stream's table as it was in a snapshot, for a FROM that gives it no other name: so its `rowid` is seen."""
    return f"{STAGING_SCHEMA}.{quote_identifier(stream.table)} AT (VERSION => {snapshot:d})"


def _count(lake: Queryable, stream: Stream, snapshot: int) -> int:
    return int(lake.query(f"SELECT count(*) FROM {table_at(stream, snapshot)}")[0][0])


def _require_matchable(old: OldTable) -> None:
    table, columns = old.stream.qualified_table, old.columns or ()
    if not has_column(columns, RAW_ID) or not has_column(old.stream.columns, RAW_ID):
        raise LakeMisconfigured(
            f"{table} has rows and no column {RAW_ID}, by which they are matched with their files",
            hint="empty the table, then its files are loaded anew",
        )
    if has_column(columns, "rowid"):
        raise LakeMisconfigured(
            f"{table} has a column named rowid, which hides the rows' own numbers",
            hint="rename the column, or empty the table, then its files are loaded anew",
        )


def _streams_of_ledger(lake: Queryable, found: Columns, snapshot: int) -> set[StreamId]:
    if (META_SCHEMA, "feeder_files") not in found:
        return set()
    rows = lake.query(
        f"SELECT DISTINCT source, stream FROM (FROM meta.feeder_files AT (VERSION => {snapshot:d}))"
    )
    return {StreamId(source=source, stream=stream) for source, stream in rows}


def _cursors(
    lake: Queryable, columns: tuple[Column, ...] | None, snapshot: int, *, bucket: str
) -> dict[StreamId, str]:
    """Reads the lake's own cursors, those that stand somewhere."""
    if columns is None:
        return {}
    if missing := [name for name in _CURSOR_COLUMNS if not has_column(columns, name)]:
        raise LakeMisconfigured(
            f"meta.feeder_cursors has the columns {', '.join(each.name for each in columns)}, expected"
            f" {', '.join(_CURSOR_COLUMNS)} among them; {', '.join(missing)} is missing",
            hint="rename that table in the lake, and say how far each stream was loaded by --cursor or --until",
        )
    rows = lake.query(
        "SELECT source, stream, cursor_path"
        f" FROM (FROM meta.feeder_cursors AT (VERSION => {snapshot:d})) WHERE source IS NOT NULL"
    )
    cursors: dict[StreamId, str] = {}
    for source, stream, path in rows:
        name = StreamId(source=source, stream=stream)
        if name in cursors:
            raise LakeMisconfigured(
                f"meta.feeder_cursors has more than one row of {name}, expected one",
                hint="delete all but the right one by hand",
            )
        cursors[name] = (path or "").removeprefix(f"s3://{bucket}/")
    return {name: path for name, path in cursors.items() if path}
