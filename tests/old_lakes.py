"""Lakes that another program filled: staging tables without our two columns, and at most a table of cursors."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

from consumer.embedded.identity import Tenant
from feeders.lake import Lake
from tests.lakes import definitions, open_lake
from tests.service import ORDERS, parquet

TABLE = "staging.stg_shopify__orders"
CUSTOMERS = "staging.stg_shopify__customers"
DAY = (2026, "07", "04")
Rows = Iterable[str | None]


@contextmanager
def lake_of(tenant: Tenant) -> Generator[Lake]:
    """The lake, opened as the other program does it."""
    lake = open_lake(tenant, instance="x-old")
    try:
        yield lake
    finally:
        lake.close()


def body_of(raw_ids: Sequence[str | None]) -> bytes:
    """A file whose rows have these raw ids: `b3` has the id 3."""
    return parquet([{"_airbyte_raw_id": raw_id, "id": id_of(raw_id)} for raw_id in raw_ids])


def id_of(raw_id: str | None) -> int | None:
    """The id of a row."""
    return int(raw_id[1:]) if raw_id else None


def make_old(lake: Lake, tables: Mapping[str, Rows], cursors: Mapping[str, str] | None = None) -> None:
    """Makes tables with rows of these raw ids, and the table of cursors, by the names of streams."""
    lake.query("CREATE SCHEMA IF NOT EXISTS staging")
    for table, raw_ids in tables.items():
        lake.query(
            f"CREATE TABLE {table} (_airbyte_raw_id VARCHAR, id BIGINT, year BIGINT, month VARCHAR, day VARCHAR)"
        )
        add_rows(lake, table, raw_ids)
    if cursors is not None:
        lake.query("CREATE SCHEMA IF NOT EXISTS meta")
        lake.query("CREATE TABLE meta.feeder_cursors (source VARCHAR, stream VARCHAR, cursor_path VARCHAR)")
        for name, path in cursors.items():
            lake.query("INSERT INTO meta.feeder_cursors VALUES (?, ?, ?)", (*name.split("."), path))


def add_rows(lake: Lake, table: str, raw_ids: Rows) -> None:
    """Adds rows as the other program does it, in one commit."""
    lake.query(
        f"INSERT INTO {table} (_airbyte_raw_id, id, year, month, day)"
        " SELECT raw_id, substr(raw_id, 2)::BIGINT, ?, ?, ? FROM (SELECT unnest(?::VARCHAR[]) AS raw_id)",
        (*DAY, list(raw_ids)),
    )


def make_old_again(lake: Lake, cursors: Mapping[str, str]) -> None:
    """Takes from a lake of ours what an older one does not have; its rows stay."""
    for stream in definitions().streams:
        for column in ("_source_file", "_rescued_data"):
            lake.query(f"ALTER TABLE {stream.qualified_table} DROP COLUMN {column}")
    for table in ("feeder_cursors", "feeder_files", "feeder_failures", "transform_cursors"):
        lake.query(f"DROP TABLE meta.{table}")
    for table in ("feeder_pauses", "lotus_lake", "writer_epoch"):
        lake.query(f"DROP TABLE meta.{table}")
    make_old(lake, {}, cursors)


def snapshot_of(lake: Lake) -> int:
    """The newest snapshot: whoever writes anything makes another one."""
    return int(lake.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])


def cursor_at(key: str) -> dict[str, str]:
    """The old cursor of shopify.orders."""
    return {str(ORDERS): key}
