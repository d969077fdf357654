"""Makes the lake's tables what the project's DDL says, and begins a writer's term. On the writer's thread.

The order matters: a new writer first ends the other writers' catalog sessions (feeders.catalog), then applies the
DDL, then raises the epoch; from then on no other process's transaction can commit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from feeders.cursors import ensure_cursors, read_cursors, replace_cursors
from feeders.ddl import Change, Path, diff_table, render
from feeders.epoch import Epoch, raise_epoch, require_epoch
from feeders.growth import Growth, plan_growth
from feeders.lake import Lake, LakeConflict, LakeMisconfigured, StatementFailed, Transaction
from feeders.parquet_types import FileSchema
from feeders.reader import Queryable
from feeders.streams import Column, Stream, StreamTable
from feeders.tables import STAGING_SCHEMA, Table
from feeders.types import fold, quote_identifier

SCHEMA_VERSION = 1
MAX_CONFLICTS = 5
MAX_REFUSED = 10
GROUP_ROWS = 16_384
LEDGER_GROUP_ROWS = 8192
"""A look-up decodes one such group of each file, instead of all keys. Smaller ones make the footers long."""


@dataclass(frozen=True, kw_only=True)
class TableChange:
    """What one table needs."""

    table: str
    change: Change


def begin_term(
    lake: Lake, tables: Sequence[Table], streams: StreamTable, *, instance: str, version: str
) -> Epoch:
    """Applies the DDL and raises the epoch, in two transactions.

    Streams with `on_new_column: add` get the columns that the lake's tables have.

    Raises:
        LakeMisconfigured: the lake is not one that this version may write.
        DdlRefused: a table differs in a way that can't be changed.
    """
    apply_ddl(lake, tables, streams, version=version)
    with lake.transaction("a new term") as transaction:
        epoch = raise_epoch(transaction, instance=instance)
        found = found_columns(transaction)
    for stream in [each for each in streams if each.on_new_column == "add"]:
        streams.take_columns(stream.id, found[STAGING_SCHEMA, stream.table])
    return epoch


def apply_ddl(
    lake: Lake, tables: Sequence[Table], streams: StreamTable, *, version: str
) -> list[TableChange]:
    """Creates what is missing and widens what may be; returns what was done."""
    prepare_files(lake)
    with lake.transaction("ddl") as transaction:
        for schema in sorted({table.schema for table in tables}):
            transaction.query(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        require_schema_version(transaction)
        require_ledger(transaction, tables)
        changes = plan_ddl(transaction, tables)
        for item in changes:
            transaction.query(render(item.change, item.table))
        ensure_cursors(transaction, [stream.id for stream in streams])
        write_schema_version(transaction, version)
    arrange_files(lake)
    return changes


def prepare_files(lake: Lake) -> None:
    """Has all rows written to files, and files in small row groups; those that are there stay as they are.

    A writer holds one row group of each of its threads in memory: of wide rows DuckDB's own 122,880 take more than all
    else.
    """
    lake.query("CALL lakehouse.set_option('data_inlining_row_limit', 0)")
    if _row_groups(lake).get(None) != str(GROUP_ROWS):
        lake.query("CALL lakehouse.set_option('parquet_row_group_size', ?)", (str(GROUP_ROWS),))


def arrange_files(lake: Lake) -> None:
    """Has the ledger's files written in the order of their keys and in smaller row groups, merged ones too.

    Each commit looks its keys up in the ledger: of a million rows it then reads some ten thousand.
    """
    if _row_groups(lake).get("meta.feeder_files") == str(LEDGER_GROUP_ROWS):
        return
    # The option comes second: it says that both are done. DuckLake sets none for a table that is being created.
    lake.query("ALTER TABLE meta.feeder_files SET SORTED BY (key ASC)")
    lake.query(
        "CALL lakehouse.set_option('parquet_row_group_size', ?, schema => 'meta', table_name => 'feeder_files')",
        (str(LEDGER_GROUP_ROWS),),
    )


def _row_groups(lake: Lake) -> dict[str | None, str]:
    return dict(
        lake.query(
            "SELECT scope_entry, value FROM ducklake_options('lakehouse')"
            " WHERE option_name = 'parquet_row_group_size'"
        )
    )


def preview_ddl(lake: Lake, tables: Sequence[Table]) -> list[TableChange]:
    """Says what `apply_ddl` would do; changes nothing."""
    with lake.transaction("ddl preview") as transaction:
        require_schema_version(transaction)
        require_ledger(transaction, tables)
        return plan_ddl(transaction, tables)


def plan_ddl(transaction: Transaction, tables: Iterable[Table]) -> list[TableChange]:
    """Compares the lake's tables with the project's; changes nothing."""
    found = found_columns(transaction)
    return [
        TableChange(table=f"{table.schema}.{table.name}", change=change)
        for table in tables
        for change in diff_table(
            table.columns, found.get((table.schema, table.name)), table=f"{table.schema}.{table.name}"
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What a table got and what not, its columns from now on, and all that the lake refused to add so far."""

    growth: Growth
    columns: tuple[Column, ...]
    refused: frozenset[Path]


def grow_table(
    lake: Lake,
    stream: Stream,
    schema: FileSchema,
    *,
    epoch: Epoch,
    max_columns: int,
    refused: frozenset[Path] = frozenset(),
) -> Grown:
    """Adds to a stream's table what a file has and the table lacks, in a transaction of its own.

    Everything is decided from the table as the transaction sees it, so it does not matter who was there before,
    nor whether an earlier attempt was committed after all. What the lake refuses is left out.

    Raises:
        LakeFenced: another process writes now.
        LakeUnavailable, LakeConflict: nothing was added; of LakeUnavailable at COMMIT that is not certain.
    """
    conflicts = 0
    while True:
        try:
            return _grow(lake, stream, schema, epoch=epoch, max_columns=max_columns, refused=refused)
        except _AddRefusedError as error:
            refused = refused | error.paths
        except LakeConflict:
            conflicts += 1
            if conflicts == MAX_CONFLICTS:
                raise


class _AddRefusedError(Exception):
    """The lake refused to add these columns; the transaction is lost."""

    def __init__(self, paths: frozenset[Path]) -> None:
        super().__init__()
        self.paths = paths


def _grow(
    lake: Lake,
    stream: Stream,
    schema: FileSchema,
    *,
    epoch: Epoch,
    max_columns: int,
    refused: frozenset[Path],
) -> Grown:
    name = (STAGING_SCHEMA, stream.table)
    with lake.transaction("new columns") as transaction:
        require_epoch(transaction, epoch)
        columns = found_columns(transaction)[name]
        growth = plan_growth(schema, columns, max_columns=max_columns, refused=refused)
        for number, change in enumerate(growth.added):
            try:
                transaction.query(render(change, stream.qualified_table))
            except StatementFailed as error:
                # Of a table that refuses many, the rest is not tried one by one.
                lost = growth.added[number:] if len(refused) >= MAX_REFUSED else (change,)
                raise _AddRefusedError(frozenset(each.path for each in lost)) from error
        if growth.added:
            # The fence: a transaction that replaces no cursor could commit beside the next writer's term.
            replace_cursors(transaction, read_cursors(transaction, [stream.id]))
            columns = found_columns(transaction)[name]
    return Grown(growth=growth, columns=columns, refused=refused)


def found_columns(transaction: Queryable) -> dict[tuple[str, str], tuple[Column, ...]]:
    """Reads the columns of all the lake's tables."""
    found: dict[tuple[str, str], list[Column]] = {}
    for schema, table, column, kind in transaction.query(
        "SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns()"
        " WHERE database_name = 'lakehouse' ORDER BY schema_name, table_name, column_index"
    ):
        found.setdefault((schema, table), []).append(Column(name=column, type=kind))
    return {table: tuple(columns) for table, columns in found.items()}


def require_schema_version(transaction: Queryable) -> None:
    """Refuses a lake that a newer program has written."""
    if ("meta", "lotus_lake") not in found_columns(transaction):
        return
    rows = transaction.query("SELECT max(schema_version), max(app_version) FROM meta.lotus_lake")
    version, program = rows[0]
    if version is not None and version > SCHEMA_VERSION:
        raise LakeMisconfigured(
            f"the lake has schema version {version}, written by lotus-lake {program};"
            f" this program knows {SCHEMA_VERSION}",
            hint="install that version of lotus-lake or a newer one",
        )


def require_ledger(transaction: Transaction, tables: Iterable[Table]) -> None:
    """Refuses staging rows of which no ledger tells: someone else's, and not taken over, or not all of it yet."""
    found = found_columns(transaction)
    has_ledger = ("meta", "feeder_files") in found
    for table in tables:
        columns = found.get((table.schema, table.name))
        if table.schema != STAGING_SCHEMA or columns is None:
            continue
        says_source = any(fold(column.name) == "_source_file" for column in columns)
        if has_ledger and says_source:
            continue
        if transaction.query(f"SELECT 1 FROM {table.schema}.{quote_identifier(table.name)} LIMIT 1"):
            lacks = (
                "the table lacks _source_file" if has_ledger else "the lake has no ledger meta.feeder_files"
            )
            raise LakeMisconfigured(
                f"{table.schema}.{table.name} has rows, but {lacks}",
                hint="another program filled it: `lotus-lake adopt` takes it over; or use another catalog schema and"
                " LOTUS_LAKE_PATH for this lake",
            )


def write_schema_version(transaction: Transaction, version: str) -> None:
    """Notes which program and schema version the lake has, if that changed."""
    rows = transaction.query("SELECT schema_version, app_version FROM meta.lotus_lake")
    if rows != [(SCHEMA_VERSION, version)]:
        transaction.change("DELETE FROM meta.lotus_lake")
        transaction.change(
            "INSERT INTO meta.lotus_lake (schema_version, app_version, updated_at) VALUES (?, ?, now())",
            (SCHEMA_VERSION, version),
        )
