"""The tables of `ddl/`: one CREATE TABLE a file, its columns as DuckDB describes them.

`ddl/meta/{table}.sql` makes `meta.{table}`; `ddl/{source}/stg_{source}__{stream}.sql` makes
`staging.stg_{source}__{stream}`. File, folder and statement must agree.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feeders.headers import HeaderRule, Headers, parse_headers
from feeders.project import Project, SqlFileError

STAGING_SCHEMA = "staging"
META_SCHEMA = "meta"

Describe = Callable[[str], Iterable[tuple[str, str]]]
"""Takes the text of a CREATE TABLE, returns (column, canonical type) pairs: `lake.describe_create_table`."""

STREAM_HEADERS: Mapping[str, HeaderRule] = {
    "landing": HeaderRule(),
    "on_new_column": HeaderRule(choices=("rescue", "add", "reject")),
    "on_delete": HeaderRule(choices=("keep", "remove")),
}

_CREATE = re.compile(r"create\s+table\s+([\w.]+)\s*\((?:[^;]*)\)\s*;?\s*", re.IGNORECASE)
_COMMENT = re.compile(r"--[^\n]*")
_SOURCE_NAME = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_STREAM_NAME = re.compile(r"[a-z0-9]+(?:_+[a-z0-9]+)*")
_FILE_NAME = re.compile(r"stg_(.+?)__(.+)\.sql")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column and the text of its type, as DESCRIBE prints both."""

    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that the project wants: the schema and name of it, all columns in order, the file's headers."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    headers: Headers


@dataclass(frozen=True, kw_only=True)
class StagingTable(Table):
    """A table in schema staging, with the source and stream that its file name says."""

    source: str
    stream: str


def load_meta_tables(project: Project, describe: Describe) -> tuple[Table, ...]:
    """Load the tables of `ddl/meta/`, by name."""
    return tuple(
        Table(
            schema=META_SCHEMA,
            name=path.stem,
            columns=_columns(path, f"{META_SCHEMA}.{path.stem}", describe),
            headers=parse_headers(path.read_text(encoding="utf-8"), path=path, rules={}),
        )
        for path in sorted((project.ddl / META_SCHEMA).glob("*.sql"))
    )


def load_staging_tables(project: Project, describe: Describe) -> tuple[StagingTable, ...]:
    """Load the tables of all `ddl/{source}/`, by source and stream.

    Raises:
        SqlFileError: a file's name, folder, header or statement is wrong.
    """
    return tuple(
        _staging_table(path, describe)
        for path in sorted(project.ddl.rglob("*.sql"))
        if path.parent != project.ddl / META_SCHEMA
    )


def _staging_table(path: Path, describe: Describe) -> StagingTable:
    named = _FILE_NAME.fullmatch(path.name)
    if not (named and _SOURCE_NAME.fullmatch(named[1]) and _STREAM_NAME.fullmatch(named[2])):
        what = "not the name of a staging table's file"
        hint = "ddl/{source}/stg_{source}__{stream}.sql, in lower-case letters, digits and underscores"
        raise SqlFileError(path, what, hint=hint)
    if path.parent.name != named[1]:
        what = f"stands in folder {path.parent.name!r}, but its name says source {named[1]!r}"
        raise SqlFileError(path, what, hint=f"move it to ddl/{named[1]}/ or rename it")
    return StagingTable(
        schema=STAGING_SCHEMA,
        name=path.stem,
        source=named[1],
        stream=named[2],
        columns=_columns(path, f"{STAGING_SCHEMA}.{path.stem}", describe),
        headers=parse_headers(path.read_text(encoding="utf-8"), path=path, rules=STREAM_HEADERS),
    )


def _columns(path: Path, wanted: str, describe: Describe) -> tuple[Column, ...]:
    text = path.read_text(encoding="utf-8")
    statement = _CREATE.fullmatch(_COMMENT.sub("", text).strip())
    if statement is None:
        raise SqlFileError(path, f"not one statement of the form CREATE TABLE {wanted} (...)")
    if statement[1] != wanted:
        what = f"creates {statement[1]}, but the file's name says {wanted}"
        raise SqlFileError(path, what, hint="rename the file or the table")
    try:
        described = tuple(describe(text))
    except Exception as error:
        error.add_note(f"in {path}")
        raise
    return tuple(Column(name=name, type=type_text) for name, type_text in described)
