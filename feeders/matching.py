"""How a file's columns fit a staging table's, from the schemas alone; worked out once for each pair.

The rule tables say what DuckDB 1.5.5 reads and casts right without loss. What they don't list is looked at
value by value (`normalize`), which is never wrong and costs time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from feeders.parquet_types import FileList, FileScalar, FileSchema, FileStruct, FileType
from feeders.streams import LOADER_COLUMNS, Column
from feeders.table_types import WHOLE, decimal_name, duckdb_type
from feeders.types import (
    DuckType,
    Field,
    List,
    Scalar,
    Struct,
    fold,
    format_type,
    parse_type,
    quote_identifier,
)

Kind = Literal["exact", "widen", "rescue"]

SOURCE = "file"
"""The alias of read_parquet in the writer's INSERT, to which projections refer."""

_LOADER_NAMES = frozenset(column.name for column in LOADER_COLUMNS)
RESCUED_COLUMN = "_rescued_data"
MAX_DIFFERENCES = 50
_MAX_TYPE_CHARACTERS = 100


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A column or field that the table lacks. `path` ends with its name, ``[]`` stands for a list's elements.

    `source` is its type in the file.
    """

    path: tuple[str, ...]
    source: FileType

    @property
    def type(self) -> str:
        """What the table could have for it: DuckDB's type text."""
        return duckdb_type(self.source)

    def __str__(self) -> str:
        return _text(self.path)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A place where a file's type is not the table's. `expected` is None where the table has no such place.

    `found` is the word of this program for the file's type, cut where it is long.
    """

    path: str
    expected: str | None
    found: str


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A leaf that fits if the footer's statistics say that all its values are in a range."""

    leaf: int
    low: int
    high: int
    signed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Match:
    """How a schema fits a table, whatever the rows. `differences` are the first `MAX_DIFFERENCES`."""

    kind: Kind
    projection: tuple[tuple[str, str], ...]
    signature: str
    extras: tuple[Extra, ...]
    differences: tuple[Difference, ...]
    reasons: tuple[str, ...]
    guards: tuple[Guard, ...]


@lru_cache(maxsize=256)
def target_of_table(columns: tuple[Column, ...]) -> Struct:
    """Return the columns that come from the file, as one STRUCT."""
    return Struct(
        fields=tuple(
            Field(name=column.name, type=parse_type(column.type))
            for column in columns
            if fold(column.name) not in _LOADER_NAMES
        )
    )


@lru_cache(maxsize=256)
def normalized_projection(columns: tuple[Column, ...]) -> tuple[tuple[str, str], ...]:
    """Return the projection of every normalized file of a table."""
    fields = ((each.name, _cast(each.name, each.type)) for each in target_of_table(columns).fields)
    return (*fields, (RESCUED_COLUMN, _cast(RESCUED_COLUMN, Scalar(name="JSON"))))


def _cast(name: str, target: DuckType) -> str:
    return f"CAST({SOURCE}.{quote_identifier(name)} AS {format_type(target)})"


@lru_cache(maxsize=1024)
def match_schema(schema: FileSchema, columns: tuple[Column, ...]) -> Match:
    """Compare a file's schema with a table's, once for each pair."""
    target = target_of_table(columns)
    matcher = _Matcher()
    found = matcher.fields(schema.root, target, ())
    projection: list[tuple[str, str]] = []
    for each in target.fields:
        source = found.get(fold(each.name))
        if source is None:
            expression = f"CAST(NULL AS {format_type(each.type)})"
        elif _by_way_of_text(source.type, format_type(each.type)):
            text = f"CAST({SOURCE}.{quote_identifier(source.name)} AS VARCHAR)"
            expression = f"CAST({text} AS {format_type(each.type)})"
        else:
            expression = _cast(source.name, each.type)
        projection.append((each.name, expression))
    projection.append((RESCUED_COLUMN, "CAST(NULL AS JSON)"))
    shape = f"{schema.root}\n{projection}"
    return Match(
        kind="rescue" if matcher.extras else "widen" if matcher.widened else "exact",
        projection=tuple(projection),
        signature=hashlib.blake2b(shape.encode(), digest_size=16).hexdigest(),
        extras=tuple(matcher.extras),
        differences=tuple(matcher.differences),
        reasons=tuple(matcher.reasons),
        guards=tuple(matcher.guards),
    )


_EXACT: Mapping[str, frozenset[str]] = {
    "VARCHAR": frozenset({"string"}),
    "JSON": frozenset({"string", "json"}),
    "BOOLEAN": frozenset({"boolean"}),
    "BIGINT": frozenset({"int64"}),
    "INTEGER": frozenset({"int32"}),
    "UBIGINT": frozenset({"uint64"}),
    "DOUBLE": frozenset({"double"}),
    "FLOAT": frozenset({"float"}),
    "DATE": frozenset({"date"}),
    "TIMESTAMP": frozenset({"timestamp_ms_local", "timestamp_us_local"}),
    "TIMESTAMP WITH TIME ZONE": frozenset({"timestamp_ms_utc", "timestamp_us_utc"}),
}
_WIDER: Mapping[str, frozenset[str]] = {
    "VARCHAR": frozenset({"enum", "json", "binary", "uuid", "boolean", "int64", "uint64", *WHOLE}),
    "JSON": frozenset({"binary", "enum"}),
    "BIGINT": frozenset(WHOLE),
    "DOUBLE": frozenset({"float", *WHOLE}),
    "TIMESTAMP WITH TIME ZONE": frozenset(
        {
            "timestamp_ms_local",
            "timestamp_us_local",
            "timestamp_ms_converted",
            "timestamp_us_converted",
            "int96",
        }
    ),
}
_GUARDED: Mapping[tuple[str, str], tuple[int, int]] = {
    ("BIGINT", "uint64"): (0, 2**63 - 1),
    ("DOUBLE", "int64"): (-(2**53), 2**53),
    ("DOUBLE", "uint64"): (0, 2**53),
}
# INT96 goes to DuckDB like the rest: what it has below a microsecond is dropped, here and in `open_parquet`.
_EXACT_BUT_SLOW = frozenset({("TIMESTAMP WITH TIME ZONE", "timestamp_ns_utc")})
"""DuckDB drops what is below a microsecond; it has to be looked at, though the type is the right one."""


@dataclass(kw_only=True)
class _Matcher:
    """Walks both types at once and notes what it meets."""

    extras: list[Extra] = field(default_factory=list[Extra])
    differences: list[Difference] = field(default_factory=list[Difference])
    reasons: list[str] = field(default_factory=list[str])
    guards: list[Guard] = field(default_factory=list[Guard])
    widened: bool = False

    def fields(self, source: FileStruct, target: Struct, path: tuple[str, ...]) -> Mapping[str, "_Source"]:
        """Match by name; the first of twins wins. Return the matched fields of the file by folded name."""
        found: dict[str, _Source] = {}
        for each in source.fields:
            here = (*path, each.name)
            wanted = target.get(each.name)
            if wanted is None or fold(each.name) in found:
                extra = Extra(path=here, source=each.type)
                self.extras.append(extra)
                self._differs(here, None, each.type)
                self.reasons.append(f"{extra}: not in the table" if wanted is None else f"{extra}: a twin")
                continue
            found[fold(each.name)] = _Source(name=each.name, type=each.type)
            self.types(each.type, wanted.type, here)
        return found

    def types(self, source: FileType, target: DuckType, path: tuple[str, ...]) -> None:
        match source, target:
            case FileStruct(), Struct():
                self.fields(source, target, path)
            case FileList(), List():
                self._list(source, target, path)
            case FileScalar(), Scalar():
                self._scalar(source, target, path)
            case _:
                self.widened = True
                self._differs(path, target, source)
                self._slow(path, f"{duckdb_type(source)} where the table has {_head(target)}")

    def _list(self, source: FileList, target: List, path: tuple[str, ...]) -> None:
        one_field = isinstance(source.element, FileStruct) and len(source.element.fields) == 1
        if source.form == "one_field" or (source.form == "bare" and one_field):
            self._slow(path, "a list of structs with one field, which DuckDB reads as a list of that field")
        self.types(source.element, target.element, (*path, "[]"))

    def _scalar(self, source: FileScalar, target: Scalar, path: tuple[str, ...]) -> None:
        kind, name = source.kind, target.name
        if kind in _EXACT.get(name, ()) or name == decimal_name(source):
            return
        if (name, kind) in _EXACT_BUT_SLOW:
            self._slow(path, f"{kind} where the table has {name}")
            return
        self.widened = True
        self._differs(path, target, source)
        if kind in _WIDER.get(name, ()) or (len(path) == 1 and _by_way_of_text(source, name)):
            return
        reason = f"{kind} where the table has {name}"
        if (limits := _GUARDED.get((name, kind))) is not None:
            low, high = limits
            text = f"{_text(path)}: {reason}"
            self.guards.append(
                Guard(leaf=source.index, low=low, high=high, signed=kind == "int64", reason=text)
            )
            return
        self._slow(path, reason)

    def _slow(self, path: tuple[str, ...], reason: str) -> None:
        self.reasons.append(f"{_text(path)}: {reason}")

    def _differs(self, path: tuple[str, ...], target: DuckType | None, source: FileType) -> None:
        if len(self.differences) < MAX_DIFFERENCES:
            expected = None if target is None else format_type(target)[:_MAX_TYPE_CHARACTERS]
            found = str(source)[:_MAX_TYPE_CHARACTERS]
            self.differences.append(Difference(path=_text(path), expected=expected, found=found))


def _by_way_of_text(source: FileType, name: str) -> bool:
    """Say whether a column is a decimal for a DOUBLE: DuckDB's own cast is off in the last digit for some."""
    return name == "DOUBLE" and decimal_name(source) is not None


@dataclass(frozen=True, kw_only=True)
class _Source:
    name: str
    type: FileType


def _text(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[]", "[]")


def _head(target: DuckType) -> str:
    return target.name if isinstance(target, Scalar) else type(target).__name__.upper()
