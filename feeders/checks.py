"""The checks of `transforms/checks/{name}.sql`: each one SELECT that must return no row.

Header::

    -- severity: error    the models are wrong
    -- severity: warn     the data are odd, and the models say what they can of them

A check reads tables of the lake, staging and models, as they are in one snapshot. One is there for each model without
a file: `unique_key_of_{model}`, its key is in no two rows and never null.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from feeders.headers import HeaderRule, parse_headers
from feeders.model_sql import parse_query, require_known, tables_of
from feeders.models import Model, sql_below
from feeders.project import Project, SqlFileError
from feeders.tables import Table
from feeders.types import quote_identifier

Severity = Literal["error", "warn"]
CHECK_HEADERS = {"severity": HeaderRule(required=True, choices=("error", "warn"))}
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. `sql` may end in a comment, so put it on lines of its own; `tables` are those that it reads."""

    name: str
    severity: Severity
    sql: str
    tables: frozenset[str]
    path: Path
    first_line: int


def load_checks(project: Project, models: Sequence[Model], tables: Iterable[Table]) -> tuple[Check, ...]:
    """Load all checks: those of the models' keys, and those of the files by name.

    Raises:
        SqlFileError: a file is wrong, or reads a table that nothing makes.
    """
    known = {model.table for model in models} | {f"{table.schema}.{table.name}" for table in tables}
    folder = project.transforms / "checks"
    keys = [_unique_key(model) for model in models]
    checks = [_parse(path) for path in sorted(folder.rglob("*.sql"))]
    for check in checks:
        if check.name in {each.name for each in keys}:
            raise SqlFileError(check.path, "has the name of a check that is there without a file")
        if check.path.parent != folder or not _NAME.fullmatch(check.name):
            hint = "transforms/checks/{name}.sql, in lower-case letters and digits"
            raise SqlFileError(check.path, "not the place and name of a check", hint=hint)
        require_known(check.path, sorted(check.tables), known)
    return (*keys, *checks)


def _unique_key(model: Model) -> Check:
    key = quote_identifier(model.key)
    return Check(
        name=f"unique_key_of_{model.name}",
        severity="error",
        sql=f"SELECT {key}, count(*) AS found FROM {model.table} GROUP BY {key}"  # noqa: S608 - quoted identifiers
        f" HAVING count(*) > 1 OR {key} IS NULL",
        tables=frozenset({model.table}),
        path=model.path,
        first_line=1,
    )


def _parse(path: Path) -> Check:
    text = path.read_text(encoding="utf-8")
    headers = parse_headers(text, path=path, rules=CHECK_HEADERS)
    sql, first_line = sql_below(text)
    query = parse_query(path, sql, what="the check", line=first_line)
    return Check(
        name=path.stem,
        severity=cast("Severity", headers.all("severity")[0].value),
        sql=sql,
        tables=frozenset(tables_of(query, path=path, own=())),
        path=path,
        first_line=first_line,
    )
