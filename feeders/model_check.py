"""Do models and checks bind? Each against the tables of `ddl/` and the models above it, in a database without rows."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from feeders.checks import Check
from feeders.lake import Scratch, StatementFailed
from feeders.models import Input, Model
from feeders.project import SqlFileError
from feeders.rebuild import columns_of
from feeders.tables import Table
from feeders.types import quote_identifier

_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)


def check_models(
    models: Sequence[Model], tables: Iterable[Table], checks: Iterable[Check] = ()
) -> list[SqlFileError]:
    """What is wrong with the models: one error for each at most, and none for what reads a model that has one.

    Args:
        models: in dependency order, as `load_models` returns them.
        tables: those of `ddl/`.
        checks: what reads both; held to bind too.
    """
    scratch = Scratch()
    try:
        for table in tables:
            columns = ", ".join(f"{quote_identifier(each.name)} {each.type}" for each in table.columns)
            scratch.query(f"CREATE TABLE {table.schema}.{quote_identifier(table.name)} ({columns})")
        errors: list[SqlFileError] = []
        unknown: set[str] = set()
        for model in models:
            if unknown & {each.table for each in model.inputs}:
                unknown.add(model.table)
                continue
            try:
                _check(scratch, model)
            except SqlFileError as error:
                errors.append(error)
                unknown.add(model.table)
        for check in checks:
            if not unknown & check.tables:
                errors += _errors_of(scratch, check)
        return errors
    finally:
        scratch.close()


def _check(scratch: Scratch, model: Model) -> None:
    """Binds a model, and makes its table. Raises SqlFileError."""
    try:
        described = columns_of(scratch.query(f"DESCRIBE {model.sql}\n"))
    except StatementFailed as error:
        raise SqlFileError(
            model.path, f"does not bind: {_first_line(error)}", line=_line(model, error)
        ) from None
    counted = Counter(name.lower() for name, _ in described)
    if repeated := sorted(name for name, count in counted.items() if count > 1):
        what = f"has more than one column of the name {', '.join(repeated)}"
        raise SqlFileError(model.path, what, line=model.first_line)
    columns = dict(described)
    if (key_type := columns.get(model.key)) is None:
        what = f"its key is {model.key}, which is none of its columns"
        raise SqlFileError(model.path, what, line=1, hint=f"it has {', '.join(columns)}")
    made = ", ".join(f"{quote_identifier(name)} {kind}" for name, kind in columns.items())
    scratch.query(f"CREATE TABLE {model.table} ({made})")
    if model.rebuild_only:
        return
    scratch.query(f"CREATE OR REPLACE TEMP TABLE keys (key {key_type})")
    for each in model.inputs:
        _check_map(scratch, model, each, key_type)
    try:
        restricted = dict(columns_of(scratch.query(f"DESCRIBE {model.restricted_sql}\n")))
    except StatementFailed as error:
        what = f"with its inputs cut down to affected keys it does not bind: {_first_line(error)}"
        hint = "a restrict may be wrong, or a column is named with the schema of its table"
        raise SqlFileError(model.path, what, line=model.inputs[0].line, hint=hint) from None
    if restricted != columns:
        what = "has other columns with its inputs cut down to affected keys"
        raise SqlFileError(model.path, what, line=model.inputs[0].line)


def _errors_of(scratch: Scratch, check: Check) -> list[SqlFileError]:
    try:
        scratch.query(f"DESCRIBE {check.sql}\n")
    except StatementFailed as error:
        return [SqlFileError(check.path, f"does not bind: {_first_line(error)}", line=_line(check, error))]
    return []


def _check_map(scratch: Scratch, model: Model, each: Input, key_type: str) -> None:
    changed = f"WITH changed AS (SELECT * FROM {each.table}) {each.keys_sql}\n"
    try:
        rows = scratch.query(f"DESCRIBE SELECT key FROM ({changed}) AS affected(key)")
    except StatementFailed as error:
        what = f"the map of {each.table} does not bind: {_first_line(error)}"
        raise SqlFileError(model.path, what, line=each.line) from None
    [(_, found)] = columns_of(rows)
    if found != key_type:
        what = f"the map of {each.table} gives {found}, the key {model.key} is {key_type}"
        raise SqlFileError(model.path, what, line=each.line, hint=f"CAST it to {key_type} in a SELECT")
    try:
        scratch.query(f"EXPLAIN SELECT 1 FROM {each.table} WHERE {each.restrict_sql}\n")
    except StatementFailed as error:
        what = f"the restrict of {each.table} does not bind: {_first_line(error)}"
        raise SqlFileError(model.path, what, line=each.line) from None


def _first_line(error: StatementFailed) -> str:
    return str(error).split("\n", 1)[0]


def _line(model: Model | Check, error: StatementFailed) -> int | None:
    """The line of the file that DuckDB's text names, if it names one; its own first one has the DESCRIBE."""
    found = _LINE.search(str(error))
    return model.first_line + int(found[1]) - 1 if found else None
