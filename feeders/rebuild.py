"""All rows of one model made anew, in place if its columns allow it."""

from collections.abc import Sequence
from dataclasses import dataclass

from feeders.lake import Row, Transaction
from feeders.models import Model
from feeders.types import quote_identifier


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """How many rows a rebuilt model has, and whether its table is another one than before."""

    rows: int
    made_anew: bool


def rebuild(transaction: Transaction, model: Model) -> Rebuilt:
    """Makes a model's table equal to its SELECT; readers see it at the commit."""
    wanted = columns_of(transaction.query(f"DESCRIBE {model.sql}\n"))
    found = columns_of(
        transaction.query(
            "SELECT column_name, data_type FROM duckdb_columns()"
            " WHERE database_name = 'lakehouse' AND schema_name = 'main' AND table_name = ? ORDER BY column_index",
            (model.name,),
        )
    )
    table = quoted(model)
    changes = alterations(found, wanted)
    if changes is None:
        if found:
            transaction.query(f"DROP TABLE {table}")
        # OR REPLACE is not used: it would cut the change feed of a table that stays.
        columns = ", ".join(f"{quote_identifier(name)} {kind}" for name, kind in wanted)
        transaction.query(f"CREATE TABLE {table} ({columns})")
    else:
        transaction.change(f"DELETE FROM {table}")  # noqa: S608 (a quoted identifier)
        for change in changes:
            transaction.query(f"ALTER TABLE {table} {change}")
    rows = transaction.change(f"INSERT INTO {table} {model.sql}\n")
    return Rebuilt(rows=rows, made_anew=changes is None)


def alterations(found: Sequence[tuple[str, str]], wanted: Sequence[tuple[str, str]]) -> list[str] | None:
    """What to ALTER so that the columns found become those wanted, in their order; None if that is not possible.

    Columns that go may go from anywhere, columns that come can only come at the end. A column of another type is
    neither.
    """
    kept = [column for column in found if column in wanted]
    come = [column for column in wanted if column not in found]
    gone = [name for name, kind in found if (name, kind) not in wanted]
    if not kept or [*kept, *come] != list(wanted) or {name for name, _ in come} & set(gone):
        return None
    return [
        *(f"DROP COLUMN {quote_identifier(name)}" for name in gone),
        *(f"ADD COLUMN {quote_identifier(name)} {kind}" for name, kind in come),
    ]


def columns_of(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """The (name, type) pairs of a DESCRIBE."""
    return tuple((row[0], row[1]) for row in rows)


def quoted(model: Model) -> str:
    """The model's table, quoted."""
    return f"main.{quote_identifier(model.name)}"
