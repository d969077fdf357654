"""The type that a table could have for what a file has: wide, so that the next file fits too."""

from collections.abc import Mapping

from feeders.parquet_types import FileList, FileOther, FileScalar, FileStruct, FileType
from feeders.types import DuckType, Field, List, Scalar, Struct, fold, format_type

WHOLE = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
"""The integers that a BIGINT holds, and are none themselves."""

MAX_NAME_CHARACTERS = 128

_DUCKDB_TYPES: Mapping[str, str] = {
    "boolean": "BOOLEAN",
    "int64": "BIGINT",
    "uint64": "UBIGINT",
    "float": "DOUBLE",
    "double": "DOUBLE",
    "date": "DATE",
    "int96": "TIMESTAMP WITH TIME ZONE",
    **dict.fromkeys(WHOLE, "BIGINT"),
}


def duckdb_type(source: FileType) -> str:
    """Return the type that a table could have for a file's type: wide, and VARCHAR for what has no other."""
    return format_type(table_type(source) or Scalar(name="VARCHAR"))


def table_type(source: FileType) -> DuckType | None:
    """Return `duckdb_type` as a value; None where no type of a table holds the file's values.

    Fields that a STRUCT can't have (twins, names that are no column's, values that no type holds) are left out.
    """
    match source:
        case FileStruct():
            return _table_struct(source)
        case FileList():
            element = table_type(source.element)
            return None if element is None else List(element=element)
        case FileOther():
            return Scalar(name="JSON")
        case FileScalar(kind=kind) if kind in _HELD_BY_NONE or kind.endswith("_unknown"):
            return None
        case FileScalar(kind="decimal"):
            return Scalar(name=decimal_name(source) or "VARCHAR")
        case FileScalar(kind=kind) if kind.startswith("timestamp_"):
            return Scalar(name="TIMESTAMP WITH TIME ZONE")
        case FileScalar():
            return Scalar(name=_DUCKDB_TYPES.get(source.kind, "VARCHAR"))


_HELD_BY_NONE = frozenset({"time", "interval", "unknown", "other"})
"""`convert` has no value for these: a column of theirs would be null, and each row rescued."""


def _table_struct(source: FileStruct) -> DuckType:
    fields: dict[str, Field] = {}
    for each in source.fields:
        held = table_type(each.type) if is_column_name(each.name) else None
        if held is not None and fold(each.name) not in fields:
            fields[fold(each.name)] = Field(name=each.name, type=held)
    return Struct(fields=tuple(fields.values())) if fields else Scalar(name="JSON")


def is_column_name(name: str) -> bool:
    """Say whether a file's name may become one of a table: something to see, and not too long."""
    return bool(name.strip()) and name.isprintable() and len(name) <= MAX_NAME_CHARACTERS


def decimal_name(source: FileType) -> str | None:
    """Return DuckDB's name of a decimal, if it has the type: some writers leave the precision out."""
    match source:
        case FileScalar(kind="decimal", arguments=(precision, scale)) if 0 <= scale <= precision <= 38:
            return f"DECIMAL({precision},{scale})" if precision else None
        case _:
            return None
