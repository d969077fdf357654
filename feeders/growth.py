"""Which of a file's columns and fields its table gets (`on_new_column: add`), and why not the others. Pure.

Any file can bring any names, so what a table gets is limited: in number, in names, and in types that hold the
values. What it does not get is rescued, as everywhere.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from feeders.ddl import AddColumn, Path
from feeders.drift import MAX_PATH_CHARACTERS, Drift
from feeders.matching import Extra, match_schema, target_of_table
from feeders.parquet_types import FileSchema
from feeders.streams import LOADER_COLUMNS, RESERVED_NAMES, Column
from feeders.table_types import is_column_name, table_type
from feeders.types import DuckType, List, Map, Scalar, Struct, fold, format_type

MAX_AT_ONCE = 500
"""Columns and fields in one transaction: 500 take about two seconds, and each one more than the one before."""

_RESERVED_PREFIXES = ("_airbyte_", "_lotus_", "_ducklake_")
_LOADER_NAMES = frozenset(column.name for column in LOADER_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class NotAdded:
    """A column or field that the table does not get. `path` has ``[]`` for a list's elements."""

    path: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What a table gets for a file, in the order in which to add it, and what it does not get."""

    added: tuple[AddColumn, ...] = ()
    drifts: tuple[Drift, ...] = ()
    not_added: tuple[NotAdded, ...] = ()


def plan_growth(
    schema: FileSchema, columns: tuple[Column, ...], *, max_columns: int, refused: Collection[Path] = ()
) -> Growth:
    """Decide about each column and field that the table lacks.

    Args:
        schema: the file's.
        columns: all columns of the table, as the lake has them.
        max_columns: how many columns the table may have in the end, nested ones included.
        refused: paths that the lake refused to add before.
    """
    extras = match_schema(schema, columns).extras
    if not extras:
        return Growth()
    root = target_of_table(columns)
    planner = _Planner(root=root, room=max_columns - count_columns(root), refused=refused)
    not_added = tuple(
        NotAdded(path=_name(extra), why=why) for extra in extras if (why := planner.take(extra)) is not None
    )
    return Growth(added=tuple(planner.added.values()), drifts=tuple(planner.drifts), not_added=not_added)


@dataclass(kw_only=True)
class _Planner:
    """Takes one column or field after the other, while there is room."""

    root: Struct
    room: int
    refused: Collection[Path]
    added: dict[Path, AddColumn] = field(default_factory=dict[Path, AddColumn])
    drifts: list[Drift] = field(default_factory=list[Drift])

    def take(self, extra: Extra) -> str | None:
        """Take one, or say why not."""
        parent, struct = _locate(extra, self.root)
        name = extra.path[-1]
        held = table_type(extra.source)
        if held is None:
            return "no type of a table holds it"
        if not is_column_name(name):
            return "its name is empty, too long, or not all to be seen"
        if struct.get(name) is not None or (*parent, fold(name)) in self.added:
            return "a twin: another name differs from it in case only"
        if not parent and (fold(name) in _LOADER_NAMES or _is_reserved(fold(name))):
            return "its name is reserved"
        if (*parent, name) in self.refused:
            return "the lake refused it"
        if count_columns(held) > self.room:
            return "the table would have more columns than LOTUS_FILE_MAX_COLUMNS"
        if len(self.added) >= MAX_AT_ONCE:
            return f"more than {MAX_AT_ONCE} at once"
        self.room -= count_columns(held)
        text = format_type(held)
        self.added[*parent, fold(name)] = AddColumn(path=(*parent, name), type=text)
        self.drifts.append(
            Drift(kind="add", path=_name(extra), expected=None, found=text[:MAX_PATH_CHARACTERS])
        )
        return None


def _is_reserved(folded: str) -> bool:
    return folded in RESERVED_NAMES or folded.startswith(_RESERVED_PREFIXES)


def _name(extra: Extra) -> str:
    return str(extra)[:MAX_PATH_CHARACTERS]


def _locate(extra: Extra, root: Struct) -> tuple[Path, Struct]:
    """Return the STRUCT that lacks it, and its path as ALTER TABLE wants it: with `element` for a list's elements."""
    path: list[str] = []
    at: DuckType = root
    for name in extra.path[:-1]:
        match at:
            case List():
                path.append("element")
                at = at.element
            case Struct() if (found := at.get(name)) is not None:
                path.append(found.name)
                at = found.type
            case _:
                raise ValueError(f"{extra} is not below a column of the table")
    if not isinstance(at, Struct):
        raise TypeError(f"{extra} is not in a STRUCT of the table")
    return tuple(path), at


def count_columns(kind: DuckType) -> int:
    """Count the columns of a type, nested ones included."""
    match kind:
        case Scalar():
            return 1
        case Struct():
            return sum(count_columns(each.type) for each in kind.fields)
        case List():
            return count_columns(kind.element)
        case Map():
            return count_columns(kind.key) + count_columns(kind.value)
