"""The difference between a table that the project wants and the one in the lake, as values. Changes nothing.

What is missing, at any level, is added; a type is widened where no value can be lost; order does not matter; what
the lake has beyond the DDL stays (``on_new_column: add`` puts it there). Anything else is refused.

Three things about DuckLake's ALTER TABLE, tried on 1.5.5: a field is added under its path, in which ``element``
stands for a LIST's elements and ``value`` for a MAP's values; a nested type is widened only by setting the whole
column's type; and that drops every field which the new type lacks, so ours keeps all that are there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from feeders.streams import Column
from feeders.types import (
    DuckType,
    Field,
    List,
    Map,
    Scalar,
    Struct,
    fold,
    format_type,
    parse_type,
    quote_identifier,
    quote_path,
)

Path: TypeAlias = tuple[str, ...]
"""A column, or a field below it: the names from the column down, `element` and `value` included."""


@dataclass(frozen=True, kw_only=True)
class CreateTable:
    """The lake lacks the table."""

    columns: tuple[Column, ...]


@dataclass(frozen=True, kw_only=True)
class AddColumn:
    """The table lacks a column or a field."""

    path: Path
    type: str


@dataclass(frozen=True, kw_only=True)
class WidenType:
    """A column's type, or one inside it, is narrower than wanted. `type` keeps what only the lake has."""

    column: str
    found: str
    type: str


Change: TypeAlias = CreateTable | AddColumn | WidenType


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A type in the lake that is neither the wanted one nor narrower."""

    path: Path
    wanted: str
    found: str


class DdlRefused(Exception):
    """A table differs from the DDL in a way that ALTER TABLE can't mend without losing values."""

    def __init__(self, table: str, mismatches: tuple[Mismatch, ...]) -> None:
        lines = [
            f"  {'.'.join(each.path)}\n    the DDL wants: {each.wanted}\n    the lake has:  {each.found}"
            for each in mismatches
        ]
        hint = "  hint: give the DDL the lake's type or a wider one; narrower or other types need a new table"
        super().__init__("\n".join([f"{table} can't become what its DDL says:", *lines, hint]))
        self.table = table
        self.mismatches = mismatches


def diff_table(
    wanted: Sequence[Column], found: Sequence[Column] | None, *, table: str = "the table"
) -> tuple[Change, ...]:
    """Return what makes the lake's table the wanted one, in the order in which to do it.

    Args:
        wanted: all columns of the DDL, types as DESCRIBE prints them.
        found: all columns of the lake's table, or None if there is no such table.
        table: its name, for the error.

    Raises:
        DdlRefused: a type can't be changed to the wanted one; names all of them.
    """
    if found is None:
        return (CreateTable(columns=tuple(wanted)),)
    present = {fold(column.name): column for column in found}
    changes: list[Change] = []
    mismatches: list[Mismatch] = []
    for column in wanted:
        other = present.get(fold(column.name))
        if other is None:
            changes.append(AddColumn(path=(column.name,), type=column.type))
            continue
        compared = _Comparison()
        merged = compared.merge((other.name,), parse_type(column.type), parse_type(other.type))
        changes += compared.added
        if compared.widened:
            changes.append(WidenType(column=other.name, found=other.type, type=format_type(merged)))
        mismatches += compared.mismatches
    if mismatches:
        raise DdlRefused(table, tuple(mismatches))
    return tuple(changes)


def extra_columns(wanted: Sequence[Column], found: Sequence[Column]) -> tuple[Path, ...]:
    """Return the columns and fields that the lake has and the DDL lacks: worth a note, no change."""
    by_name = {fold(column.name): column for column in wanted}
    extra: list[Path] = []
    for column in found:
        other = by_name.get(fold(column.name))
        if other is None:
            extra.append((column.name,))
        else:
            compared = _Comparison()
            compared.merge((column.name,), parse_type(other.type), parse_type(column.type))
            extra += compared.extra
    return tuple(extra)


def render(change: Change, table: str) -> str:
    """Return the statement that makes the change.

    Args:
        change: from `diff_table`.
        table: the table with its schema, unquoted: ``staging.stg_shopify__orders``.
    """
    name = quote_path(table.split("."))
    match change:
        case CreateTable():
            columns = ", ".join(f"{quote_identifier(each.name)} {each.type}" for each in change.columns)
            return f"CREATE TABLE {name} ({columns})"
        case AddColumn():
            return f"ALTER TABLE {name} ADD COLUMN {quote_path(change.path)} {change.type}"
        case WidenType():
            column = quote_identifier(change.column)
            return f"ALTER TABLE {name} ALTER COLUMN {column} SET DATA TYPE {change.type}"
        case _:
            assert_never(change)


@dataclass(kw_only=True)
class _Comparison:
    """One column compared, level by level."""

    added: list[AddColumn] = field(default_factory=list[AddColumn])
    extra: list[Path] = field(default_factory=list[Path])
    mismatches: list[Mismatch] = field(default_factory=list[Mismatch])
    widened: bool = False

    def merge(self, path: Path, wanted: DuckType, found: DuckType) -> DuckType:
        """Compare two types, and return the found one with what it lacks of the wanted one."""
        match wanted, found:
            case Struct(), Struct():
                return self._structs(path, wanted, found)
            case List(), List():
                return List(element=self.merge((*path, "element"), wanted.element, found.element))
            case Map(), Map() if wanted.key == found.key:
                return Map(key=found.key, value=self.merge((*path, "value"), wanted.value, found.value))
            case Scalar(), Scalar() if wanted == found:
                return found
            case Scalar(), Scalar() if is_widening(found.name, wanted.name):
                self.widened = True
                return wanted
            case _:
                types = {"wanted": format_type(wanted), "found": format_type(found)}
                self.mismatches.append(Mismatch(path=path, **types))
                return found

    def _structs(self, path: Path, wanted: Struct, found: Struct) -> Struct:
        fields: list[Field] = []
        for each in found.fields:
            other = wanted.get(each.name)
            if other is None:
                self.extra.append((*path, each.name))
                fields.append(each)
            else:
                merged = self.merge((*path, each.name), other.type, each.type)
                fields.append(Field(name=each.name, type=merged, quoted=each.quoted))
        for each in wanted.fields:
            if found.get(each.name) is None:
                self.added.append(AddColumn(path=(*path, each.name), type=format_type(each.type)))
                fields.append(each)
        return Struct(fields=tuple(fields))


_INTEGER_DIGITS = {
    "TINYINT": 3,
    "UTINYINT": 3,
    "SMALLINT": 5,
    "USMALLINT": 5,
    "INTEGER": 10,
    "UINTEGER": 10,
    "BIGINT": 19,
    "UBIGINT": 20,
}
_WIDER = {
    "UTINYINT": {"USMALLINT", "UINTEGER", "UBIGINT", "SMALLINT", "INTEGER", "BIGINT"},
    "USMALLINT": {"UINTEGER", "UBIGINT", "INTEGER", "BIGINT"},
    "UINTEGER": {"UBIGINT", "BIGINT"},
    "TINYINT": {"SMALLINT", "INTEGER", "BIGINT"},
    "SMALLINT": {"INTEGER", "BIGINT"},
    "INTEGER": {"BIGINT"},
    "TIMESTAMP_S": {"TIMESTAMP_MS", "TIMESTAMP"},
    "TIMESTAMP_MS": {"TIMESTAMP"},
}
_EXACT_IN = {"FLOAT": 5, "DOUBLE": 10}
"""The decimal digits of the integers that a floating type holds exactly, all of that size."""
_DECIMAL = re.compile(r"DECIMAL\(([0-9]+),([0-9]+)\)")


def is_widening(narrow: str, wide: str) -> bool:
    """Tell whether every value of one scalar type is exactly one of the other, and DuckLake can promote it.

    DuckLake would promote more, such as BIGINT to FLOAT or VARCHAR to JSON; those change or refuse values. Not
    HUGEINT: Parquet files hold it as DOUBLE. Not FLOAT to DOUBLE: the catalog keeps a file's least and greatest
    value as text, 0.1 of a FLOAT then means the DOUBLE 0.1, and filters pass over the row (seen on 1.5.5).
    """
    if wide in _WIDER.get(narrow, ()):
        return True
    digits = _INTEGER_DIGITS.get(narrow)
    if digits is not None and wide in _EXACT_IN:
        return digits <= _EXACT_IN[wide]
    to = _DECIMAL.fullmatch(wide)
    if to is None:
        return False
    before_point = int(to[1]) - int(to[2])
    if digits is not None:
        return digits <= before_point
    of = _DECIMAL.fullmatch(narrow)
    if of is None:
        return False
    return int(of[2]) <= int(to[2]) and int(of[1]) - int(of[2]) <= before_point and narrow != wide
