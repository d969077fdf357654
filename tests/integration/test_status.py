"""`lotus-lake status`: its figures are those that DuckDB itself gives, and what is away is said."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from consumer.broker import Broker
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from feeders.lake import Lake, StatementFailed
from feeders.types import quote_identifier
from tests.asking import Document, command
from tests.lakes import definitions, one, open_lake, start_term
from tests.service import ORDERS, announce, order_key, settings_of, with_broker
from tests.status import validator

MIB = 1024**2
ODD = f'odd [bold]"name {"of some length " * 10}'
NOBODY = "nats://127.0.0.1:9"


@dataclass(frozen=True, kw_only=True)
class Lived:
    """A lake with a past."""

    tenant: Tenant
    lake: Lake
    expiry_began_at: datetime


@pytest.fixture(scope="module")
def lived(stack: Stack) -> Iterator[Lived]:
    """Commits, deletions, tables that came later, an expiry; and keys in the queue."""
    tenant = stack.tenant("status")
    lake = open_lake(tenant)
    try:
        start_term(lake, definitions())
        first = newest(lake)
        for number in range(6):
            lake.query(
                "INSERT INTO meta.feeder_files (key, rows) SELECT ? || n, n FROM range(5) r(n)", (number,)
            )
        lake.query("DELETE FROM meta.feeder_files WHERE rows = 3 AND key < '3'")
        lake.query("DELETE FROM meta.feeder_files WHERE key >= '5'")
        lake.query("CREATE TABLE main.later AS SELECT md5(n::VARCHAR) AS text FROM range(200_000) r(n)")
        made = newest(lake)
        lake.query(f"CREATE TABLE main.{quote_identifier(ODD)} AS SELECT 1 AS one")
        lake.query("INSERT INTO main.later VALUES ('a small file')")
        kept = {first, made + 1, made + 2}
        expired = [number for number in snapshots(lake) if number not in kept]
        assert made in expired
        expiry_began_at = datetime.now(UTC)
        lake.query("SELECT count(*) FROM ducklake_expire_snapshots('lakehouse', versions => ?)", (expired,))
        put_into_queue(tenant)
        yield Lived(tenant=tenant, lake=lake, expiry_began_at=expiry_began_at)
    finally:
        lake.close()


def newest(lake: Lake) -> int:
    return snapshots(lake)[-1]


def snapshots(lake: Lake) -> list[int]:
    return [n for (n,) in lake.query("SELECT snapshot_id FROM ducklake_snapshots('lakehouse') ORDER BY 1")]


def put_into_queue(tenant: Tenant) -> None:
    """Two keys of a stream, one of which is claimed, and one of none."""
    for key in (order_key("one"), order_key("two"), "raw/nobodys.parquet"):
        assert announce(tenant, key)

    async def claim(broker: Broker) -> int:
        return len(await broker.fetch(ORDERS, 1, 5))

    assert with_broker(settings_of(tenant), claim) == 1


def status_json(tenant: Tenant, **changes: str) -> tuple[Document, int]:
    """What --json prints, which is valid, and the exit status."""
    done = command(tenant, "status", "--json", **changes)
    [line] = done.stdout.splitlines()
    document = json.loads(line)
    validator().validate(document)
    return document, done.exit_code


def by_duckdb(lake: Lake, schema: str, table: str) -> Document:
    """What DuckDB says of a table."""
    files = lake.query(
        "SELECT data_file, data_file_size_bytes, delete_file FROM ducklake_list_files('lakehouse', ?, schema => ?)",
        (table, schema),
    )
    paths = [path for path, *_ in files]
    [held] = (
        one(lake, "SELECT sum(num_rows)::BIGINT FROM parquet_file_metadata(?)", (paths,)) if paths else [0]
    )
    name = f"{schema}.{quote_identifier(table)}"
    [rows] = one(lake, f"SELECT count(*) FROM {name}")
    oldest = next(number for number in snapshots(lake) if can_read(lake, name, number))
    at = f"SELECT {written('snapshot_time')} FROM ducklake_snapshots('lakehouse') WHERE snapshot_id = ?"
    return {
        "schema": schema,
        "table": table,
        "files": len(files),
        "bytes": sum(size for _, size, _ in files),
        "rows": rows,
        "small_files": sum(size < MIB and deletes is None for _, size, deletes in files),
        "files_with_deletes": sum(deletes is not None for *_, deletes in files),
        "deleted_rows": held - rows,
        "oldest_snapshot": oldest,
        "oldest_snapshot_at": one(lake, at, (oldest,))[0],
    }


def written(at: str) -> str:
    """The expression that writes a time; DuckDB's session is in UTC."""
    return f"strftime({at}, '%Y-%m-%dT%H:%M:%S.%f+00:00')"


def can_read(lake: Lake, name: str, snapshot: int) -> bool:
    try:
        lake.query(f"SELECT count(*) FROM {name} AT (VERSION => {snapshot})")
    except StatementFailed as error:
        if error.kind != "CatalogException":
            raise
        return False
    return True


def test_the_figures_are_those_of_duckdb(lived: Lived) -> None:
    document, exit_code = status_json(lived.tenant, LOTUS_LAKE_FILE_BYTES=str(MIB))
    assert exit_code == 0
    lake = lived.lake
    tables = lake.query(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'lakehouse' ORDER BY ALL"
    )
    found: list[Document] = document["tables"]
    assert found == [by_duckdb(lake, schema, table) for schema, table in tables]

    some = {f"{each['schema']}.{each['table']}": each for each in found}
    assert (some["meta.feeder_files"]["deleted_rows"], some["meta.feeder_files"]["files_with_deletes"]) == (
        3,
        3,
    )
    assert (some["main.later"]["files"], some["main.later"]["small_files"]) == (2, 1)
    assert len({each["oldest_snapshot"] for each in found}) > 1

    count, oldest_at, newest_at = one(
        lake,
        f"SELECT count(*), {written('min(snapshot_time)')}, {written('max(snapshot_time)')}"
        " FROM ducklake_snapshots('lakehouse')",
    )
    assert document["snapshots"] == {"count": count, "oldest_at": oldest_at, "newest_at": newest_at}
    assert count == 3
    [removable] = one(
        lake,
        "SELECT count(*) FROM ducklake_cleanup_old_files('lakehouse', dry_run => true, cleanup_all => true)",
    )
    assert document["removable_files"] == removable > 0
    assert lived.expiry_began_at <= datetime.fromisoformat(document["removable_since"]) <= datetime.now(UTC)


def test_a_table_can_be_read_at_the_time_that_is_told(lived: Lived) -> None:
    document, _ = status_json(lived.tenant)
    [later] = [each for each in document["tables"] if each["table"] == "later"]
    at = later["oldest_snapshot_at"]
    assert one(lived.lake, f"SELECT count(*) FROM main.later AT (TIMESTAMP => '{at}')") == (200_000,)


def test_pending_keys_are_told_by_stream(lived: Lived) -> None:
    document, _ = status_json(lived.tenant)
    pending = {(each["source"], each["stream"]): each for each in document["pending"]}
    assert len(pending) == len(definitions().streams) + 2
    in_queue = {name: (each["waiting"], each["claimed"]) for name, each in pending.items()}
    assert {name: keys for name, keys in in_queue.items() if any(keys)} == {
        ("shopify", "orders"): (1, 1),
        ("_unrouted", "_"): (1, 0),
    }


def test_a_line_for_each_table_and_the_rest_below(lived: Lived) -> None:
    document, _ = status_json(lived.tenant)
    done = command(lived.tenant, "status")
    assert done.exit_code == 0, done.output
    streams, models, (heading, *tables), rest = (
        part.splitlines() for part in done.stdout.rstrip("\n").split("\n\n")
    )
    assert (len(streams), len(models)) == (len(document["streams"]) + 1, len(document["models"]) + 1)
    assert "stopped: no writer answers" in streams[1]
    assert heading.split()[0] == "table"
    assert len(tables) == len(document["tables"])
    for line, table in zip(tables, document["tables"], strict=True):
        name = f"{table['schema']}.{table['table']}"
        assert line.startswith(f"{name} ")
        files, size, unit, *numbers = line.removeprefix(name).replace(",", "").split()
        shown = [table[each] for each in ("rows", "small_files", "files_with_deletes", "deleted_rows")]
        assert [int(each) for each in (files, *numbers[:5])] == [
            table["files"],
            *shown,
            table["oldest_snapshot"],
        ]
        scale = {"byte": 1, "bytes": 1, "kB": 1000, "MB": 1000**2}[unit]
        assert float(size) * scale == pytest.approx(table["bytes"], rel=0.06)
    names = ["service", "last writer", "snapshots", "removable files", "pending keys"]
    assert [line.split("  ")[0] for line in rest] == names
    assert rest[4].endswith(" shopify.orders 2 (1 in work), _unrouted 1")


@pytest.mark.parametrize(
    ("changes", "says", "cure"),
    [
        ({"LOTUS_NATS_URL": NOBODY}, "error: nats: connect: ", "is nats running"),
        ({"LOTUS_NAMESPACE": "another"}, "NATS has no queue of the namespace another", "LOTUS_NAMESPACE"),
        ({"LOTUS_NATS_PASSWORD": "wrong"}, "error: NATS refuses us", "LOTUS_NATS_PASSWORD"),
    ],
)
def test_a_queue_that_can_not_be_asked_is_said(
    lived: Lived, changes: dict[str, str], says: str, cure: str
) -> None:
    done = command(lived.tenant, "status", **changes)
    assert done.exit_code == 3
    assert "\nmeta.feeder_files " in done.stdout
    assert done.stdout.endswith("\npending keys     unknown\n")
    assert says in done.stderr
    assert cure in done.stderr


def test_without_the_queue_its_part_is_null(lived: Lived) -> None:
    whole, _ = status_json(lived.tenant)
    document, exit_code = status_json(lived.tenant, LOTUS_NAMESPACE="another")
    assert exit_code == 3
    changed = ("at", "streams", "pending", "missing")
    assert all(document[name] == whole[name] for name in whole.keys() - set(changed))
    assert (document["pending"], [each["part"] for each in document["missing"]]) == (None, ["queue"])
    assert all(each["pending"] is None for each in document["streams"])


def test_without_s3_the_lakes_own_tables_are_missing(lived: Lived) -> None:
    document, exit_code = status_json(lived.tenant, LOTUS_S3_ENDPOINT="http://127.0.0.1:9")
    assert exit_code == 3
    assert [each["part"] for each in document["missing"]] == ["lake"]
    assert document["tables"]
    assert (document["models"], document["streams"][0]["dead_letters"]) == (None, None)


def test_without_postgresql_there_is_nothing_to_show(lived: Lived) -> None:
    done = command(lived.tenant, "status", "--json", LOTUS_CATALOG_PORT="9")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "error: postgresql does not answer" in done.stderr
    assert "is postgresql running, and are its address and port right?" in done.stderr


def test_a_catalog_without_a_lake_is_said(tenant: Tenant) -> None:
    done = command(tenant, "status")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "the catalog has no lake in schema public" in done.stderr
    assert "`lotus-lake ddl apply` make it" in done.stderr
