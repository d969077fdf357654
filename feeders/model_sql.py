"""What the SQL of models, maps and checks says of itself: that it is one SELECT, and which tables it reads where."""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from feeders.project import SqlFileError
from feeders.tables import STAGING_SCHEMA

MODEL_SCHEMA = "main"
OWN_NAMES = frozenset({"changed", "keys"})
"""What maps and restricts read: tables that the engine makes."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where a model's SELECT names a table: its characters from `start` up to `end`, and whether an alias follows."""

    table: str
    start: int
    end: int
    has_alias: bool


def parse_query(path: Path, sql: str, *, what: str, line: int | None = None) -> exp.Query:
    """Parses the text of one SELECT, which begins in this line of the file.

    Raises:
        SqlFileError: `what` does not parse, or is something else.
    """
    try:
        statements = sqlglot.parse(sql, dialect="duckdb")
    except SqlglotError as error:
        found = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
        text = f"{found['description']} at {found['highlight']!r}" if found else str(error)
        at = (line or 1) + int(found.get("line") or 1) - 1
        raise SqlFileError(path, f"{what} does not parse: {text}", line=at) from None
    if len(statements) != 1 or not isinstance(query := statements[0], exp.Query):
        raise SqlFileError(path, f"{what} is not one SELECT", line=line)
    return query


def tables_of(query: exp.Query, *, path: Path, own: tuple[str, ...]) -> set[str]:
    """Return the tables that a query reads, with their schemas, without its CTEs and the names in `own`.

    Raises:
        SqlFileError: it reads something else than tables of the lake, named with their schema.
    """
    ctes = {cte.alias for cte in query.find_all(exp.CTE)}
    if taken := sorted(OWN_NAMES & {name.lower() for name in ctes}):
        raise SqlFileError(path, f"has a WITH of the name {taken[0]}, which maps and restricts read")
    local = ctes | set(own)
    found: set[str] = set()
    for table in query.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier) or table.catalog:
            what = f"reads {table.sql(dialect='duckdb')}, which is not a table of this lake"
            raise SqlFileError(path, what, hint=f"read {STAGING_SCHEMA}.… and {MODEL_SCHEMA}.… only")
        if table.db:
            found.add(f"{table.db}.{table.name}")
        elif table.name not in local:
            what = f"reads {table.name!r}, a name without schema"
            raise SqlFileError(
                path, what, hint=f"{STAGING_SCHEMA}.{table.name} or {MODEL_SCHEMA}.{table.name}?"
            )
    return found


def references_of(query: exp.Query) -> tuple[Reference, ...]:
    """Where the text of a query names tables with a schema, in its order."""
    found: list[Reference] = []
    for table in query.find_all(exp.Table):
        schema = table.args.get("db")
        if isinstance(schema, exp.Identifier) and isinstance(table.this, exp.Identifier):
            found.append(
                Reference(
                    table=f"{table.db}.{table.name}",
                    start=schema.meta["start"],
                    end=table.this.meta["end"] + 1,
                    has_alias=bool(table.alias),
                )
            )
    return tuple(sorted(found, key=lambda reference: reference.start))


def require_known(path: Path, tables: Iterable[str], known: Collection[str]) -> None:
    """Raises SqlFileError if one of the tables is none of those that are made."""
    for table in tables:
        if table not in known:
            near = difflib.get_close_matches(table, sorted(known), n=1)
            hint = f"is it {near[0]}?" if near else "tables are made by ddl/ and transforms/"
            raise SqlFileError(path, f"reads {table}, which nothing makes", hint=hint)
