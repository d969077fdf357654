"""The models of `transforms/`: one SELECT a file, what it reads, and how changes reach it.

`transforms/processed/{source}/int_{source}__{name}.sql` and `transforms/enriched/{domain}/fct_{name}.sql`
make the tables `main.int_…` and `main.fct_…`. What a model reads comes from its SQL; tables stand there with
their schema. (`transforms/checks/` is for feeders.checks.) Headers::

    -- key: order_id                          the model's key: one column, unique in its result, never null
    -- map: staging.a: id                     of table a, a changed row's `id` is the key it affects
    -- map: staging.b: SELECT … FROM changed  or: a SELECT of one column, the keys that changed rows affect
    -- restrict: staging.b: id IN (… keys …)  the rows of b that affected keys need

Each table that a model reads has one `map`. In its SELECT, `changed` is a table with that table's columns:
the rows that changed, before and after images alike; all else it reads is as it is now. A `restrict` is a
condition over one row of its table, where `keys` is a table with one column `key`; after a map to a column it
may be absent, and says that the column is one of the keys. It has to let through every row that an affected
key's result depends on, and may let through more: the result is cut down to the affected keys afterwards.

`-- rebuild_only: true` stands for all maps: such a model is rebuilt as a whole when anything that it reads changes.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from sqlglot import exp

from feeders.headers import Header, HeaderRule, Headers, parse_headers
from feeders.latest import newest_by
from feeders.model_sql import MODEL_SCHEMA, Reference, parse_query, references_of, require_known, tables_of
from feeders.project import Project, ProjectError, SqlFileError
from feeders.tables import STAGING_SCHEMA
from feeders.types import quote_identifier

MODEL_HEADERS = {
    "key": HeaderRule(required=True),
    "map": HeaderRule(repeated=True),
    "restrict": HeaderRule(repeated=True),
    "rebuild_only": HeaderRule(choices=("true",)),
}

_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE = re.compile(r"([A-Za-z0-9_]+\.[A-Za-z0-9_]+)\s*:\s*(.+)")
_PROCESSED = re.compile(r"int_([a-z0-9]+(?:_[a-z0-9]+)*?)__[a-z0-9_]+")
_ENRICHED = re.compile(r"fct_[a-z0-9_]+")


@dataclass(frozen=True, kw_only=True)
class Input:
    """A table that a model reads.

    `keys_sql` selects one column, the affected keys (repeated and null ones too), from `changed`.
    `restrict_sql` is a condition over the table's rows and `keys`. Both are empty in a model that is only rebuilt.
    `column` is the one that holds the keys, if that is all that map and restrict say.
    `line` is where its map stands in the file, 0 if there is none.
    """

    table: str
    keys_sql: str
    restrict_sql: str
    column: str | None = None
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model.

    `sql` is its SELECT without headers; it may end in a comment, so put it on lines of its own. `sql_hash` is
    of the whole file, headers included: another hash asks for a rebuild. `references` are in the order of the text.
    `first_line` is the one of the file where `sql` begins. `newest_by` is the column by which the model takes the
    newest row of each key, if that is all that it does (feeders.latest).
    """

    name: str
    key: str
    sql: str
    inputs: tuple[Input, ...]
    references: tuple[Reference, ...]
    path: Path
    sql_hash: str
    first_line: int
    rebuild_only: bool = False
    newest_by: str | None = None

    @property
    def table(self) -> str:
        """The model's table with its schema."""
        return f"{MODEL_SCHEMA}.{self.name}"

    @property
    def restricted_sql(self) -> str:
        """Its SELECT with every table that it reads cut down to the rows that the affected keys need.

        It reads the keys from a table `keys`, and may give rows of other keys too.
        """
        return self.restricted_from({})

    def restricted_from(self, instead: Mapping[str, str]) -> str:
        """The same, which reads other tables instead of some: those hold all of their rows that the keys need."""
        return self.reading(
            {
                each.table: f"SELECT * FROM {instead.get(each.table, each.table)} WHERE {each.restrict_sql}"  # noqa: S608
                for each in self.inputs
            }
        )

    def reading(self, queries: Mapping[str, str]) -> str:
        """Its SELECT, which reads these queries, one for each of its tables, in place of the tables."""
        sql = self.sql
        for reference in reversed(self.references):
            alias = (
                "" if reference.has_alias else f" AS {quote_identifier(reference.table.partition('.')[2])}"
            )
            # A query may end in a comment.
            sql = f"{sql[: reference.start]}({queries[reference.table]}\n){alias}{sql[reference.end :]}"
        return sql


def load_models(project: Project) -> tuple[Model, ...]:
    """Load all models, each after those that it reads.

    Raises:
        SqlFileError: a file is wrong, or reads a table that nothing makes.
        ProjectError: two models have one name, or models read each other in a circle.
    """
    models: dict[str, Model] = {}
    for path in _paths(project):
        model = _parse(path)
        if (other := models.get(model.table)) is not None:
            message = f"two models have the name {model.name}: {other.path} and {path}"
            raise ProjectError(message)
        models[model.table] = model
    staging = {f"{STAGING_SCHEMA}.{path.stem}" for path in project.ddl.glob("*/stg_*.sql")}
    for model in models.values():
        require_known(model.path, (each.table for each in model.inputs), staging | models.keys())
    graph = {
        table: sorted(each.table for each in model.inputs if each.table in models)
        for table, model in sorted(models.items())
    }
    try:
        return tuple(models[table] for table in TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle: list[str] = error.args[1]
        files = "\n".join(f"  {table}: {models[table].path}" for table in circle[1:])
        message = f"models read each other in a circle: {' → '.join(reversed(circle))}\n{files}"
        raise ProjectError(message) from None


def below(models: Iterable[Model], tables: Iterable[str]) -> tuple[Model, ...]:
    """Return those models that read one of the tables, directly or through others, in the order given.

    Args:
        models: in dependency order, as `load_models` returns them.
        tables: with their schemas.
    """
    reached = set(tables)
    found: list[Model] = []
    for model in models:
        if any(each.table in reached for each in model.inputs):
            reached.add(model.table)
            found.append(model)
    return tuple(found)


def _paths(project: Project) -> Iterator[Path]:
    for path in sorted((project.transforms / "processed").rglob("*.sql")):
        named = _PROCESSED.fullmatch(path.stem)
        if named is None or path.parent != project.transforms / "processed" / named[1]:
            hint = "transforms/processed/{source}/int_{source}__{name}.sql, in lower-case letters and digits"
            raise SqlFileError(path, "not the place and name of a processed model", hint=hint)
        yield path
    for path in sorted((project.transforms / "enriched").rglob("*.sql")):
        if _ENRICHED.fullmatch(path.stem) is None or path.parent.parent != project.transforms / "enriched":
            hint = "transforms/enriched/{domain}/fct_{name}.sql, in lower-case letters and digits"
            raise SqlFileError(path, "not the place and name of an enriched model", hint=hint)
        yield path


def _parse(path: Path) -> Model:
    text = path.read_text(encoding="utf-8")
    headers = parse_headers(text, path=path, rules=MODEL_HEADERS)
    key = headers.all("key")[0]
    if not _COLUMN.fullmatch(key.value):
        raise SqlFileError(path, f"header 'key' is {key.value!r}, not one column's name", line=key.line)
    sql, first_line = sql_below(text)
    query = parse_query(path, sql, what="the model", line=first_line)
    tables = tables_of(query, path=path, own=())
    rebuild_only = _is_rebuild_only(headers)
    inputs = (
        tuple(Input(table=table, keys_sql="", restrict_sql="") for table in sorted(tables))
        if rebuild_only
        else _inputs(headers, tables)
    )
    references = references_of(query)
    return Model(
        name=path.stem,
        key=key.value,
        sql=sql,
        inputs=inputs,
        references=references,
        path=path,
        sql_hash=hashlib.sha256(text.encode()).hexdigest(),
        first_line=first_line,
        rebuild_only=rebuild_only,
        newest_by=_newest_by(query, key.value, inputs, references),
    )


def _newest_by(
    query: exp.Query, key: str, inputs: Sequence[Input], references: Sequence[Reference]
) -> str | None:
    if len(references) != 1 or (mapped := inputs[0].column) is None:
        return None
    return newest_by(query, key=key, mapped=mapped)


def sql_below(text: str) -> tuple[str, int]:
    """The SQL below the head of a file, without a semicolon at its end, and the line where it begins."""
    lines = text.splitlines(keepends=True)
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith("--")):
        del lines[0]
    sql = "".join(lines).rstrip().removesuffix(";").rstrip()
    return sql, len(text.splitlines()) - len(lines) + 1


def _is_rebuild_only(headers: Headers) -> bool:
    mapped = headers.all("map")
    if headers.first("rebuild_only") is None:
        if not mapped:
            what = "header 'map' is missing"
            hint = "one for each table that the model reads, or `-- rebuild_only: true`"
            raise SqlFileError(headers.path, what, line=1, hint=hint)
        return False
    if others := [*mapped, *headers.all("restrict")]:
        what = f"header {others[0].name!r} in a model that is only rebuilt"
        raise SqlFileError(headers.path, what, line=others[0].line, hint="remove it, or `rebuild_only`")
    return True


def _inputs(headers: Headers, tables: set[str]) -> tuple[Input, ...]:
    maps = _by_table(headers, "map", tables)
    restricts = _by_table(headers, "restrict", tables)
    if missing := sorted(tables - maps.keys()):
        what = f"reads {', '.join(missing)} without a header 'map'"
        hint = f"-- map: {missing[0]}: the column that holds the model's key, or a SELECT from changed"
        raise SqlFileError(headers.path, what, hint=hint)
    return tuple(
        _input(headers.path, table, tables=tables, mapped=maps[table], restrict=restricts.get(table))
        for table in sorted(tables)
    )


def _input(
    path: Path,
    table: str,
    *,
    tables: set[str],
    mapped: tuple[Header, str],
    restrict: tuple[Header, str] | None,
) -> Input:
    header, keys_sql = mapped
    condition = (header, "")
    named: str | None = None
    if _COLUMN.fullmatch(keys_sql):
        named = keys_sql if restrict is None else None
        column = quote_identifier(keys_sql)
        keys_sql = f"SELECT {column} FROM changed"  # noqa: S608 (a quoted identifier)
        condition = (header, f"{column} IN (SELECT key FROM keys)")  # noqa: S608 (as above)
    elif restrict is None:
        what = f"maps {table} with a SELECT, but has no header 'restrict' for it"
        raise SqlFileError(path, what, line=header.line, hint=f"-- restrict: {table}: a condition")
    restricted, restrict_sql = restrict or condition
    _check_map(path, header.line, keys_sql, own="changed", tables=tables)
    _check_map(path, restricted.line, f"SELECT 1 WHERE {restrict_sql}", own="keys", tables=tables)
    return Input(table=table, keys_sql=keys_sql, restrict_sql=restrict_sql, column=named, line=header.line)


def _by_table(headers: Headers, name: str, tables: set[str]) -> dict[str, tuple[Header, str]]:
    """Split the values `table: rest` of all headers of one name."""
    found: dict[str, tuple[Header, str]] = {}
    for header in headers.all(name):
        match = _VALUE.fullmatch(header.value)
        if match is None:
            what = f"header {name!r} is {header.value!r}, not 'schema.table: …'"
        elif match[1] not in tables:
            what = f"header {name!r} is for {match[1]}, which the model does not read"
        elif match[1] in found:
            what = f"a second header {name!r} for {match[1]}"
        else:
            found[match[1]] = (header, match[2])
            continue
        raise SqlFileError(headers.path, what, line=header.line)
    return found


def _check_map(path: Path, line: int, sql: str, *, own: str, tables: set[str]) -> None:
    """Check the SQL of a map or restrict: it parses, and reads what the model reads and nothing else."""
    query = parse_query(path, sql, what="the map", line=line)
    if others := sorted(tables_of(query, path=path, own=(own,)) - tables):
        raise SqlFileError(
            path, f"the map reads {', '.join(others)}, which the model does not read", line=line
        )
