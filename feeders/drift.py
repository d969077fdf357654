"""Drift: what of a file is not as its table has it. Names and types only, never a value, and never too many.

widen    another type, whose values all fit: a cast
rescue   something that the column does not hold, or that no column holds: in `_rescued_data`
add      a column or field that the table got because the file has it (`on_new_column: add`)
reject   a column or field that the table lacks and may not get (`on_new_column: reject`): a dead letter
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from feeders.matching import MAX_DIFFERENCES, Extra, Match, match_schema
from feeders.parquet import BadFile
from feeders.parquet_types import FileSchema
from feeders.streams import Column

DriftKind = Literal["widen", "rescue", "add", "reject"]

MAX_COLUMNS = 50
MAX_SCHEMA_CHARACTERS = 2000
MAX_PATH_CHARACTERS = 200
_MAX_TYPE_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One column or field that drifted.

    `path` has ``[]`` for a list's elements. `expected` is the table's type, None where the table has no such
    place; `found` is the file's. Both are None where the types agree and only values did not fit.
    """

    kind: DriftKind
    path: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        match self.expected, self.found:
            case None, None:
                return f"{self.path}: values that its own type does not hold"
            case None, found:
                return f"{self.path}: {found}, not in the table"
            case expected, found:
                return f"{self.path}: {found} for {expected}"


def drifts_of(match: Match, rescued_paths: Iterable[str]) -> tuple[Drift, ...]:
    """Say what drifted in a file of this schema, of which values were rescued at these paths (no indices)."""
    rescued = set(rescued_paths)
    differing = {each.path: each for each in match.differences}
    drifts = [
        Drift(
            kind="rescue" if path in rescued or each.expected is None else "widen",
            path=path[:MAX_PATH_CHARACTERS],
            expected=each.expected,
            found=each.found,
        )
        for path, each in differing.items()
    ]
    drifts += [
        Drift(kind="rescue", path=path[:MAX_PATH_CHARACTERS], expected=None, found=None)
        for path in sorted(rescued - differing.keys())
    ]
    return tuple(drifts[:MAX_DIFFERENCES])


class SchemaRejected(BadFile):
    """The file has columns or fields that its table lacks, and its stream wants none (`on_new_column: reject`)."""

    def __init__(self, extras: Sequence[Extra]) -> None:
        named = listed([f"{each} {each.type}" for each in extras])
        message = (
            f"{len(extras)} columns or fields that the table lacks;"
            " add them to the stream's DDL and replay the key, or let the stream `rescue` or `add` them"
        )
        super().__init__("schema_rejected", message, {"columns": named, "found": len(extras)})
        self.drifts = tuple(
            Drift(kind="reject", path=str(each)[:MAX_PATH_CHARACTERS], expected=None, found=_cut(each.type))
            for each in extras[:MAX_DIFFERENCES]
        )


def require_known_columns(schema: FileSchema, columns: tuple[Column, ...]) -> None:
    """Refuses a file with columns or fields that the table lacks. Missing and wider ones are none.

    Raises:
        SchemaRejected: it has some.
    """
    extras = match_schema(schema, columns).extras
    if extras:
        raise SchemaRejected(extras)


def listed(texts: Sequence[str]) -> str:
    """Joins texts, as many as `MAX_COLUMNS` and `MAX_SCHEMA_CHARACTERS` allow, and says how many are left out."""
    shown: list[str] = []
    room = MAX_SCHEMA_CHARACTERS - 20
    for text in map(_cut, texts[:MAX_COLUMNS]):
        if len(text) > room:
            break
        shown.append(text)
        room -= len(text) + 2
    left = len(texts) - len(shown)
    return ", ".join([*shown, *([f"… {left} more"] if left else [])])


def table_schema_text(columns: Iterable[Column]) -> str:
    """Says which columns a table has, for the evidence of a dead letter."""
    return listed([f"{each.name} {each.type}" for each in columns])


def file_schema_text(schema: FileSchema) -> str:
    """Says which columns a file has, with this program's words for their types."""
    return listed([f"{each.name} {each.type}" for each in schema.root.fields])


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TYPE_CHARACTERS else f"{text[: _MAX_TYPE_CHARACTERS - 1]}…"
