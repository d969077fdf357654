"""Decides how a file's columns become a staging table's: exact, widened, or with values to rescue.

DuckDB reads the spooled file itself where that is known to be right and to lose nothing, which the footer
decides. Everything else (unknown columns, types that may not fit, and what DuckDB 1.5.5 refuses or reads
wrongly) goes through `normalize`, and DuckDB reads the file that it wrote.

What a footer can't show, DuckDB finds when it reads: a text that is not UTF-8 (in a column annotated STRING
too), malformed text for a JSON column, a broken page. Its INSERT then fails as a whole. A file that failed
alone is planned again with ``careful=True``, which reads every value: a plan that loads, or `BadFile`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from feeders.normalize import RESCUED_COLUMN, normalize
from feeders.parquet import Footer
from feeders.parquet_schema import FileList, FileOther, FileScalar, FileSchema, FileStruct, FileType
from feeders.streams import LOADER_COLUMNS, Column
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
_NORMALIZED = "normalized"


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A column or field that the table lacks. `path` ends with its name, ``[]`` stands for a list's elements.

    `type` is what the table could have for it: DuckDB's type text.
    """

    path: tuple[str, ...]
    type: str

    def __str__(self) -> str:
        return ".".join(self.path).replace(".[]", "[]")


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How the writer loads one file.

    Attributes:
        path: what DuckDB reads: the spooled file, or the normalized one beside it.
        kind: exact; widen, other types that lose nothing; rescue, something belongs in `_rescued_data`.
        projection: (staging column, expression over `SOURCE`), of all but year, month, day and _source_file.
        rows: rows in the file; with 0 there is nothing to read.
        rescued_rows: rows with something in `_rescued_data`.
        rescued_paths: where, names without indices and values, at most 50.
        extras: columns and fields that the table lacks, as the file's schema has them.
        reasons: why the file was normalized: names and types only. Empty if it was not.
        signature: files of one stream with the same signature can be read by one read_parquet.
        normalized: `path` is a file that this plan made, and whoever runs the plan removes it.
    """

    path: Path
    kind: Kind
    projection: tuple[tuple[str, str], ...]
    rows: int
    rescued_rows: int
    rescued_paths: tuple[str, ...]
    extras: tuple[Extra, ...]
    reasons: tuple[str, ...]
    signature: str
    normalized: bool


@dataclass(frozen=True, kw_only=True)
class _Guard:
    """A leaf that fits if the footer's statistics say that all its values are in a range."""

    leaf: int
    low: int
    high: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Match:
    """How a schema fits a table, whatever the rows."""

    kind: Kind
    projection: tuple[tuple[str, str], ...]
    signature: str
    extras: tuple[Extra, ...]
    reasons: tuple[str, ...]
    guards: tuple[_Guard, ...]


def plan_load(
    path: Path, footer: Footer, columns: tuple[Column, ...], *, work_dir: Path, careful: bool = False
) -> LoadPlan:
    """Plan the load of a checked file; may write ``{name}.normalized.parquet`` into `work_dir`.

    Args:
        path: the spooled file.
        footer: what `inspect` returned for it.
        columns: the staging table's; those that the loader fills itself are left out here.
        work_dir: where a normalized file goes.
        careful: read every value, as after a failed INSERT of this file alone.

    Raises:
        BadFile: a page can't be read (only where pages are read).
        OSError: the disk, not the file.
    """
    match = _match(footer.schema, columns)
    reasons = [*match.reasons, *_codec_reasons(footer), *_guard_reasons(footer, match.guards)]
    if careful:
        reasons.append("planned again after it failed to load")
    if not reasons or footer.rows == 0:
        return LoadPlan(
            path=path,
            kind=match.kind,
            projection=match.projection,
            rows=footer.rows,
            rescued_rows=0,
            rescued_paths=(),
            extras=match.extras,
            reasons=(),
            signature=match.signature,
            normalized=False,
        )
    result = normalize(path, footer, _target(columns), work_dir / f"{path.name}.normalized.parquet")
    return LoadPlan(
        path=result.path,
        kind="rescue" if result.rescued_rows else match.kind,
        projection=_normalized_projection(columns),
        rows=result.rows,
        rescued_rows=result.rescued_rows,
        rescued_paths=result.rescued_paths,
        extras=match.extras,
        reasons=tuple(reasons),
        signature=_NORMALIZED,
        normalized=True,
    )


def _codec_reasons(footer: Footer) -> list[str]:
    # pyarrow names Hadoop's LZ4 and LZO so, and LZ4_RAW it names LZ4.
    return ["codec: Hadoop's LZ4 or LZO, which DuckDB refuses"] if "UNKNOWN" in footer.codecs else []


def _guard_reasons(footer: Footer, guards: tuple[_Guard, ...]) -> list[str]:
    return [guard.reason for guard in guards if not _within(footer, guard)]


def _within(footer: Footer, guard: _Guard) -> bool:
    for number in range(footer.row_groups):
        chunk = footer.metadata.row_group(number).column(guard.leaf)
        found = chunk.statistics
        if found is None:
            return False
        if found.has_null_count and found.null_count == chunk.num_values:
            continue
        if not found.has_min_max or not guard.low <= found.min <= found.max <= guard.high:
            return False
    return True


@lru_cache(maxsize=256)
def _target(columns: tuple[Column, ...]) -> Struct:
    return Struct(
        fields=tuple(
            Field(name=column.name, type=parse_type(column.type))
            for column in columns
            if column.name not in _LOADER_NAMES
        )
    )


@lru_cache(maxsize=256)
def _normalized_projection(columns: tuple[Column, ...]) -> tuple[tuple[str, str], ...]:
    fields = ((each.name, _cast(each.name, each.type)) for each in _target(columns).fields)
    return (*fields, (RESCUED_COLUMN, _cast(RESCUED_COLUMN, Scalar(name="JSON"))))


def _cast(name: str, target: DuckType) -> str:
    return f"CAST({SOURCE}.{quote_identifier(name)} AS {format_type(target)})"


@lru_cache(maxsize=1024)
def _match(schema: FileSchema, columns: tuple[Column, ...]) -> _Match:
    """Compare a file's schema with a table's, once for each pair."""
    target = _target(columns)
    matcher = _Matcher()
    found = matcher.fields(schema.root, target, ())
    projection: list[tuple[str, str]] = []
    for each in target.fields:
        source = found.get(fold(each.name))
        if source is None:
            expression = f"CAST(NULL AS {format_type(each.type)})"
        elif isinstance(source.type, FileScalar) and source.type.kind == "decimal":
            text = f"CAST({SOURCE}.{quote_identifier(source.name)} AS VARCHAR)"
            expression = f"CAST({text} AS {format_type(each.type)})"
        else:
            expression = _cast(source.name, each.type)
        projection.append((each.name, expression))
    projection.append((RESCUED_COLUMN, "CAST(NULL AS JSON)"))
    shape = f"{schema.root}\n{projection}"
    return _Match(
        kind="rescue" if matcher.extras else "widen" if matcher.widened else "exact",
        projection=tuple(projection),
        signature=hashlib.blake2b(shape.encode(), digest_size=16).hexdigest(),
        extras=tuple(matcher.extras),
        reasons=tuple(matcher.reasons),
        guards=tuple(matcher.guards),
    )


_EXACT: Mapping[str, frozenset[str]] = {
    "VARCHAR": frozenset({"string"}),
    "JSON": frozenset({"string", "json"}),
    "BOOLEAN": frozenset({"boolean"}),
    "BIGINT": frozenset({"int64"}),
    "INTEGER": frozenset({"int32"}),
    "DOUBLE": frozenset({"double"}),
    "FLOAT": frozenset({"float"}),
    "DATE": frozenset({"date"}),
    "TIMESTAMP": frozenset({"timestamp_ms_local", "timestamp_us_local"}),
    "TIMESTAMP WITH TIME ZONE": frozenset({"timestamp_ms_utc", "timestamp_us_utc"}),
}
_WHOLE = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
_WIDER: Mapping[str, frozenset[str]] = {
    "VARCHAR": frozenset({"enum", "json", "binary", "uuid", "boolean", "int64", "uint64", *_WHOLE}),
    "JSON": frozenset({"binary", "enum"}),
    "BIGINT": frozenset(_WHOLE),
    "DOUBLE": frozenset({"float", *_WHOLE}),
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
_EXACT_BUT_SLOW = frozenset({("TIMESTAMP WITH TIME ZONE", "timestamp_ns_utc")})
"""DuckDB drops what is below a microsecond; it has to be looked at, though the type is the right one."""


@dataclass(kw_only=True)
class _Matcher:
    """Walks both types at once and notes what it meets."""

    extras: list[Extra] = field(default_factory=list[Extra])
    reasons: list[str] = field(default_factory=list[str])
    guards: list[_Guard] = field(default_factory=list[_Guard])
    widened: bool = False

    def fields(self, source: FileStruct, target: Struct, path: tuple[str, ...]) -> Mapping[str, "_Source"]:
        """Match by name; the first of twins wins. Return the matched fields of the file by folded name."""
        found: dict[str, _Source] = {}
        for each in source.fields:
            here = (*path, each.name)
            wanted = target.get(each.name)
            if wanted is None or fold(each.name) in found:
                extra = Extra(path=here, type=duckdb_type(each.type))
                self.extras.append(extra)
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
                self._slow(path, f"{duckdb_type(source)} where the table has {_head(target)}")

    def _list(self, source: FileList, target: List, path: tuple[str, ...]) -> None:
        one_field = isinstance(source.element, FileStruct) and len(source.element.fields) == 1
        if source.form == "one_field" or (source.form == "bare" and one_field):
            self._slow(path, "a list of structs with one field, which DuckDB reads as a list of that field")
        self.types(source.element, target.element, (*path, "[]"))

    def _scalar(self, source: FileScalar, target: Scalar, path: tuple[str, ...]) -> None:
        kind, name = source.kind, target.name
        if kind in _EXACT.get(name, ()):
            return
        if (name, kind) in _EXACT_BUT_SLOW:
            self._slow(path, f"{kind} where the table has {name}")
            return
        self.widened = True
        if kind in _WIDER.get(name, ()) or (kind == "decimal" and name == "DOUBLE" and len(path) == 1):
            return
        reason = f"{kind} where the table has {name}"
        if (limits := _GUARDED.get((name, kind))) is not None:
            low, high = limits
            text = f"{_text(path)}: {reason}"
            self.guards.append(_Guard(leaf=source.index, low=low, high=high, reason=text))
            return
        self._slow(path, reason)

    def _slow(self, path: tuple[str, ...], reason: str) -> None:
        self.reasons.append(f"{_text(path)}: {reason}")


@dataclass(frozen=True, kw_only=True)
class _Source:
    name: str
    type: FileType


def _text(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[]", "[]")


def _head(target: DuckType) -> str:
    return target.name if isinstance(target, Scalar) else type(target).__name__.upper()


_DUCKDB_TYPES: Mapping[str, str] = {
    "boolean": "BOOLEAN",
    "int64": "BIGINT",
    "uint64": "UBIGINT",
    "float": "DOUBLE",
    "double": "DOUBLE",
    "date": "DATE",
    "int96": "TIMESTAMP WITH TIME ZONE",
    **dict.fromkeys(_WHOLE, "BIGINT"),
}


def duckdb_type(source: FileType) -> str:
    """Return the type that a table could have for a file's type: wide, and VARCHAR for what has no other."""
    match source:
        case FileStruct():
            parts = ", ".join(
                f"{quote_identifier(each.name)} {duckdb_type(each.type)}" for each in source.fields
            )
            return f"STRUCT({parts})"
        case FileList():
            return f"{duckdb_type(source.element)}[]"
        case FileOther():
            return "JSON"
        case FileScalar(kind="decimal", arguments=(precision, scale)):
            return f"DECIMAL({precision},{scale})"
        case FileScalar(kind=kind) if kind.startswith("timestamp_"):
            return "TIMESTAMP WITH TIME ZONE"
        case FileScalar():
            return _DUCKDB_TYPES.get(source.kind, "VARCHAR")
