"""The streams, and the way from an object's key to its stream.

A stream's objects lie directly under one of its landing places, in either of two layouts::

    {landing}/year=YYYY/month=MM/day=DD/{any name}.parquet       Hive
    {landing}/YYYY_MM_DD_{epoch milliseconds}_{N}.parquet        flat

What matches neither, with a date that exists, has no route; that holds for SeaweedFS's own
`{key}.versions/v_{id}` entries too. Matching is by exact bytes: `.PARQUET` and `month=3` have no route.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, cast

from feeders.project import Project, ProjectError, SqlFileError
from feeders.tables import (
    STAGING_SCHEMA,
    Column,
    Describe,
    StagingTable,
    load_staging_tables,
)

__all__ = ["Column", "Partition", "Route", "Stream", "StreamId", "StreamTable", "load_streams"]

OnNewColumn = Literal["rescue", "add", "reject"]
OnDelete = Literal["keep", "remove"]

LOADER_COLUMNS = (
    Column(name="year", type="BIGINT"),
    Column(name="month", type="VARCHAR"),
    Column(name="day", type="VARCHAR"),
    Column(name="_source_file", type="VARCHAR"),
    Column(name="_rescued_data", type="JSON"),
)
"""What the loader fills in every staging table; all other columns come from the file."""

_HIVE = re.compile(r"year=([0-9]{4})/month=([0-9]{2})/day=([0-9]{2})/[^/]+\.parquet", re.DOTALL)
_FLAT = re.compile(r"([0-9]{4})_([0-9]{2})_([0-9]{2})_[0-9]+_[0-9]+\.parquet")


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class StreamId:
    """A stream's name: source and stream, printed ``source.stream``."""

    source: str
    stream: str

    def __str__(self) -> str:
        return f"{self.source}.{self.stream}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """One stream: its staging table, its landing places, and what to do with the unexpected.

    `table` has no schema; `qualified_table` does. `landing` holds prefixes from the bucket's root without
    slashes at their ends. `columns` are all columns of the table, in order: of the DDL, and with
    `on_new_column: add` those that the lake's table got beside them.
    """

    id: StreamId
    table: str
    landing: tuple[str, ...]
    columns: tuple[Column, ...]
    on_new_column: OnNewColumn
    on_delete: OnDelete

    @property
    def qualified_table(self) -> str:
        """The table with its schema."""
        return f"{STAGING_SCHEMA}.{self.table}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """The partition columns of a key: month and day are the key's text, two digits."""

    year: int
    month: str
    day: str

    def date(self) -> date:
        """Return the day as a date."""
        return date(self.year, int(self.month), int(self.day))


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where a key's rows belong."""

    stream: Stream
    partition: Partition


class StreamTable:
    """All streams; finds the one that a key belongs to."""

    def __init__(self, streams: Iterable[Stream]) -> None:
        """Take the streams.

        Raises:
            ProjectError: two streams, or two places of one, overlap: one lies in the other or is the same.
        """
        self._streams = {stream.id: stream for stream in sorted(streams, key=lambda each: each.id)}
        self._places: dict[str, Stream] = {}
        for stream in self._streams.values():
            for place in stream.landing:
                if (other := self._places.get(place)) is not None:
                    message = f"{stream.id} and {other.id} both land in {place!r}"
                    raise ProjectError(message)
                self._places[place] = stream
        for place, stream in self._places.items():
            parent, slash, _ = place.rpartition("/")
            while slash:
                if (other := self._places.get(parent)) is not None:
                    message = f"{stream.id} lands in {place!r}, which lies in {parent!r} of {other.id}"
                    raise ProjectError(message)
                parent, slash, _ = parent.rpartition("/")

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, stream_id: StreamId) -> Stream | None:
        """Return the stream of that name."""
        return self._streams.get(stream_id)

    def take_columns(self, stream_id: StreamId, columns: tuple[Column, ...]) -> Stream:
        """Give a stream the columns that its table has now, for all routes from here on; return the new stream."""
        stream = replace(self._streams[stream_id], columns=columns)
        self._streams[stream_id] = stream
        self._places |= dict.fromkeys(stream.landing, stream)
        return stream

    def route(self, key: str) -> Route | None:
        """Return the stream and partition of an object's key, or None. Takes any text, raises nothing."""
        if not key.endswith(".parquet"):
            return None
        place, _, name = key.rpartition("/")
        stream = self._places.get(place)
        match = _FLAT.fullmatch(name)
        if stream is None or match is None:
            segments = key.rsplit("/", 4)
            stream = self._places.get(segments[0])
            match = _HIVE.fullmatch("/".join(segments[1:]))
        if stream is None or match is None:
            return None
        partition = Partition(year=int(match[1]), month=match[2], day=match[3])
        try:
            partition.date()
        except ValueError:
            return None
        return Route(stream=stream, partition=partition)


def load_streams(project: Project, *, prefix: str, describe: Describe) -> StreamTable:
    """Load the streams of a project's `ddl/`.

    Args:
        project: where the files are.
        prefix: where streams land that have no `landing` header: `{prefix}/{source}/{stream}`. May be empty.
        describe: gives the columns of a CREATE TABLE as DuckDB describes them.

    Raises:
        ProjectError: a file is wrong, or landing places of two streams overlap.
    """
    return StreamTable(
        Stream(
            id=StreamId(source=table.source, stream=table.stream),
            table=table.name,
            landing=_landing(table, prefix),
            columns=_checked_columns(table),
            on_new_column=cast("OnNewColumn", table.headers.value("on_new_column", default="rescue")),
            on_delete=cast("OnDelete", table.headers.value("on_delete", default="keep")),
        )
        for table in load_staging_tables(project, describe)
    )


def _landing(table: StagingTable, prefix: str) -> tuple[str, ...]:
    header = table.headers.first("landing")
    if header is None:
        return ("/".join(part for part in (prefix.strip("/"), table.source, table.stream) if part),)
    places = tuple(part.strip().strip("/") for part in header.value.split(","))
    if not all(place and all(place.split("/")) for place in places):
        what = f"header 'landing' is {header.value!r}: an empty place or folder name in it"
        hint = "paths from the bucket's root, separated by commas: raw/shopify/orders, raw/shopify_v2/orders"
        raise SqlFileError(table.headers.path, what, line=header.line, hint=hint)
    outside = [
        place for place in places if prefix.strip("/") and not place.startswith(f"{prefix.strip('/')}/")
    ]
    if outside:
        what = f"header 'landing' names {outside[0]!r}, which is not below the landing prefix {prefix!r}"
        hint = "nothing listens there: move the place, or set LOTUS_LANDING_PREFIX to a prefix of all places"
        raise SqlFileError(table.headers.path, what, line=header.line, hint=hint)
    return places


RESERVED_NAMES = frozenset(
    {"rowid", "snapshot_id", "change_type", "filename", "file_index", "file_row_number"}
)
"""What DuckDB and DuckLake call their own columns of a table, a file and a change feed."""


def _checked_columns(table: StagingTable) -> tuple[Column, ...]:
    if taken := sorted(column.name for column in table.columns if column.name.lower() in RESERVED_NAMES):
        what = f"has a column of the name {', '.join(taken)}, which DuckDB and DuckLake give to columns of their own"
        raise SqlFileError(table.headers.path, what, hint="leave it out: what files have of it is rescued")
    missing = [column for column in LOADER_COLUMNS if column not in table.columns]
    if missing:
        what = "lacks what the loader fills: " + ", ".join(f"{each.name} {each.type}" for each in missing)
        raise SqlFileError(table.headers.path, what)
    return table.columns
