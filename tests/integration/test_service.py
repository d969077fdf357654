"""The service as processes: stop, a zombie, bad objects, time zones. Replicas: test_replicas.py."""

import asyncio
from pathlib import Path

import pytest

from consumer.broker import Broker
from consumer.connections import broker_config
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing
from consumer.settings import load_settings
from feeders.lake import Lake, Row
from tests.helpers import wait_until
from tests.lakes import definitions, lake_config, one
from tests.landed import Bucketful, assert_exact, dead_letters, wait_until_loaded
from tests.processes import ConsumerProcess, consumer_process
from tests.service import WORK_TIMEOUT_S, running_service

ARMED = str(Path(__file__).parent.parent / "faults" / "armed.py")
DAY = "raw/shopify/orders/year=2026/month=07/day=04"


@pytest.fixture
def bucketful(tenant: Tenant) -> Bucketful:
    return Bucketful(tenant=tenant, landing=Landing(seed=2, files=None, rows=(3, 12)))


@pytest.fixture
def second_port(stack: Stack, tenant: Tenant) -> int:
    """A port for the pages of the tenant's second consumer."""
    return stack.tenant(f"{tenant.name}b").http_port


def loaded_files(consumer: ConsumerProcess) -> int:
    """How many files it has loaded, by its own count."""
    lines = consumer.page("/metrics")[1].splitlines()
    counts = [line for line in lines if line.startswith("lotus_lake_files_loaded_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in counts)


def claims(tenant: Tenant) -> int:
    """How many keys are claimed."""

    async def ask() -> int:
        broker = await Broker.connect(broker_config(load_settings(tenant.env()), "t-claims"))
        try:
            streams = [None, *(stream.id for stream in definitions().streams)]
            return sum([(await broker.pending(stream))[1] for stream in streams])
        finally:
            await broker.close()

    return asyncio.run(ask())


def test_sigterm_finishes_what_is_in_work_and_leaves_no_claim(bucketful: Bucketful, tmp_path: Path) -> None:
    tenant = bucketful.tenant
    with (
        consumer_process(tenant, tmp_path / "first.log", settings={"LOTUS_ACK_WAIT_S": "60"}) as first,
        bucketful.landing_meanwhile(10, rate=10),
    ):
        wait_until(lambda: loaded_files(first) > 0, timeout_s=60, what="a first file to be loaded")
        assert first.terminate() == 0, first.tail()
        # What it was given it has finished or given back: the next one need not wait until claims run out.
        assert claims(tenant) == 0, first.tail()
    assert '"left_unacked": 0' in first.log.read_text()
    with consumer_process(tenant, tmp_path / "second.log", settings={"LOTUS_ACK_WAIT_S": "60"}) as second:
        wait_until_loaded(bucketful, timeout_s=50)
        assert_exact(bucketful)
        second.wait_for("writer")  # the first may have loaded all before it stopped
        assert second.terminate() == 0, second.tail()


def test_a_stopped_writer_is_overtaken_and_commits_nothing_when_it_wakes(
    bucketful: Bucketful, second_port: int, tmp_path: Path
) -> None:
    """It is stopped with all statements of a batch done, just before its COMMIT."""
    tenant = bucketful.tenant
    command = (ARMED, "SIGSTOP", "committing", "1", "cursors written")
    spool = str(tmp_path / "spool")
    quick = {"LOTUS_LOCK_TIMEOUT_S": "3"}
    with consumer_process(tenant, tmp_path / "zombie.log", command=command, settings=quick) as zombie:
        bucketful.land(3)
        wait_until(zombie.is_stopped, timeout_s=60, what="the writer to stop in mid-batch")
        with consumer_process(
            tenant, tmp_path / "standby.log", port=second_port, settings={"LOTUS_SPOOL_DIR": spool}
        ) as successor:
            successor.wait_for("writer")
            bucketful.land(3)
            wait_until_loaded(bucketful)
            zombie.resume()
            zombie.wait_for("standby")
            bucketful.land(1)
            wait_until_loaded(bucketful)
            assert_exact(bucketful)
            lake = Lake(lake_config(tenant, instance="r-epochs"))
            try:
                epochs = lake.query("SELECT DISTINCT epoch FROM meta.feeder_files")
                assert epochs == lake.query("SELECT epoch FROM meta.writer_epoch")
            finally:
                lake.close()
            assert loaded_files(zombie) == 0
            assert zombie.terminate() == 0, zombie.tail()
            assert successor.terminate() == 0, successor.tail()


def test_bad_objects_are_dead_letters_and_the_others_load(bucketful: Bucketful) -> None:
    tenant = bucketful.tenant
    whole = next(bucketful.landing)
    bucketful.landing = Landing(seed=2, files=None, rows=(3, 12))
    bad = {
        "raw/nowhere/at/all.parquet": (whole.body, "unrouted"),
        f"{DAY}/noise.parquet": (bytes(range(256)) * 4, "not_parquet"),
        f"{DAY}/cut.parquet": (whole.body[:-20], "truncated"),
        f"{DAY}/empty.parquet": (b"", "empty_file"),
    }
    with running_service(tenant) as service:
        bucketful.land(2)
        for key, (body, reason) in bad.items():
            bucketful.put(key, body, broken=True)
            bucketful.reasons[key] = reason
        bucketful.land(2)
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        found = service.rows(
            "SELECT key, reason, attempts, etag IS NULL FROM meta.feeder_failures ORDER BY key"
        )
        assert found == [(key, reason, 1, False) for key, (_, reason) in sorted(bad.items())]
        announced = {letter["key"]: letter["reason"] for letter in dead_letters(tenant)}
        assert announced == {key: reason for key, (_, reason) in bad.items()}


def test_the_tables_are_the_same_in_another_time_zone(stack: Stack, tenant: Tenant, tmp_path: Path) -> None:
    contents: list[dict[str, list[Row]]] = []
    for zone, place in (("UTC", tenant), ("Pacific/Auckland", stack.tenant(f"{tenant.name}z"))):
        bucketful = Bucketful(tenant=place, landing=Landing(seed=5, files=None, rows=(3, 12)))
        bucketful.land(10)
        with consumer_process(place, tmp_path / f"{place.name}.log", settings={"TZ": zone}) as consumer:
            wait_until_loaded(bucketful)
            assert consumer.terminate() == 0, consumer.tail()
        contents.append(all_tables(place))
    assert_exact(bucketful)
    utc, auckland = contents
    assert utc.keys() == auckland.keys()
    for table, rows in utc.items():
        assert rows == auckland[table], f"{table} differs between the time zones"
    assert sum(len(rows) for rows in utc.values()) > 100


def all_tables(tenant: Tenant) -> dict[str, list[Row]]:
    """Every row of staging and the models, and the cursors; values as DuckDB prints them in UTC."""
    lake = Lake(lake_config(tenant, instance="r-tables"))
    try:
        tables = [
            f"{schema}.{table}"
            for schema, table in lake.query(
                "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'lakehouse'"
                " AND schema_name IN ('staging', 'main') ORDER BY ALL"
            )
        ]
        assert one(lake, "SELECT current_setting('TimeZone')") == ("UTC",)
        contents = {
            table: lake.query(f"SELECT COLUMNS(*)::VARCHAR FROM {table} ORDER BY ALL") for table in tables
        }
        contents["cursors"] = lake.query(
            "SELECT source, stream, cursor_path, cursor_date::VARCHAR, files, rows FROM meta.feeder_cursors"
            " ORDER BY ALL"
        )
        return contents
    finally:
        lake.close()


def test_what_troubled_a_term_is_over_with_it(stack: Stack, tenant: Tenant) -> None:
    """A standby does not use what gave trouble, and the next term has seen none."""
    with running_service(tenant) as service:
        state = service.service.state
        state.note_trouble("s3", "no answer")
        with stack.connect() as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND application_name LIKE 'lotus-lake:lock:%%'",
                (tenant.catalog.database,),
            ).fetchall()
        assert ended == [(True,)]
        wait_until(
            lambda: state.terms == 2 and state.not_ready is None,
            timeout_s=WORK_TIMEOUT_S,
            what="a second term that is well",
        )
