"""`lotus-lake ddl apply` on a real lake: an empty one, an older one, and ones that it must not touch."""

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from consumer.cli import app
from consumer.embedded.identity import Tenant
from consumer.settings import known_variables
from feeders.apply import SCHEMA_VERSION
from feeders.lake import Lake
from feeders.project import find_project
from tests.lakes import definitions, open_lake

ORDERS = "staging.stg_shopify__orders"


@pytest.fixture
def environment(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The tenant's settings as this process's environment."""
    for name in known_variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in tenant.env().items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def apply(*options: str) -> Result:
    result = CliRunner().invoke(app, ["ddl", "apply", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@contextmanager
def lake_of(tenant: Tenant) -> Generator[Lake]:
    lake = open_lake(tenant, instance="r-ddl")
    try:
        yield lake
    finally:
        lake.close()


def types_of(lake: Lake, table: str) -> dict[str, str]:
    return dict(
        lake.query(
            "SELECT column_name, data_type FROM duckdb_columns()"
            " WHERE database_name = 'lakehouse' AND schema_name || '.' || table_name = ?",
            (table,),
        )
    )


@pytest.mark.usefixtures("environment")
def test_an_empty_lake_gets_all_and_the_second_time_nothing(tenant: Tenant) -> None:
    wanted = definitions()

    # Looking first changes nothing.
    looked = apply("--dry-run")
    assert looked.exit_code == 0, looked.output
    assert f"{len(wanted.tables)} statements would change" in looked.stdout
    with lake_of(tenant) as lake:
        assert types_of(lake, ORDERS) == {}

    applied = json.loads(apply("--json").stdout)
    assert applied["applied"] is True
    assert len(applied["statements"]) == len(wanted.tables)
    with lake_of(tenant) as lake:
        for table in wanted.tables:
            name = f"{table.schema}.{table.name}"
            assert types_of(lake, name) == {column.name: column.type for column in table.columns}, name
        # Each stream has its cursor from here on.
        cursors = lake.query(
            "SELECT source, stream, cursor_path, files FROM meta.feeder_cursors ORDER BY ALL"
        )
        assert cursors == sorted((s.id.source, s.id.stream, "", 0) for s in wanted.streams)
        assert lake.query("SELECT schema_version FROM meta.lotus_lake") == [(SCHEMA_VERSION,)]

    again = apply()
    assert again.exit_code == 0
    assert "are what ddl/ says" in again.stdout
    assert json.loads(apply("--dry-run", "--json").stdout) == {"applied": False, "statements": []}
    with lake_of(tenant) as lake:
        assert lake.query("SELECT count(*) FROM meta.feeder_cursors") == [(len(wanted.streams),)]


@pytest.mark.usefixtures("environment")
def test_an_older_lake_is_widened_with_its_rows_kept(tenant: Tenant) -> None:
    with lake_of(tenant) as lake:
        lake.query("CREATE SCHEMA staging")
        lake.query(
            f"CREATE TABLE {ORDERS} (id INTEGER, test BOOLEAN, customer STRUCT(id BIGINT, email VARCHAR),"
            " mine_alone VARCHAR, year BIGINT, month VARCHAR, day VARCHAR, _source_file VARCHAR)"
        )
    statements = json.loads(apply("--json").stdout)["statements"]
    with lake_of(tenant) as lake:
        found = types_of(lake, ORDERS)
        wanted = next(table for table in definitions().tables if table.name == "stg_shopify__orders")
        assert found["id"] == "BIGINT"  # wider
        assert found["financial_status"] == "VARCHAR"  # added
        assert "default_address STRUCT(" in found["customer"]  # added below a column
        assert found["mine_alone"] == "VARCHAR"  # not ours, so it stays
        assert {column.name for column in wanted.columns} <= found.keys()
    assert any("ALTER COLUMN id SET DATA TYPE BIGINT" in each.replace('"', "") for each in statements)
    assert any('"customer"."default_address"' in each for each in statements)
    assert json.loads(apply("--json").stdout)["statements"] == []


@pytest.mark.usefixtures("environment")
def test_a_type_that_does_not_fit_is_refused_with_both_and_nothing_is_changed(tenant: Tenant) -> None:
    with lake_of(tenant) as lake:
        lake.query("CREATE SCHEMA staging")
        lake.query(f"CREATE TABLE {ORDERS} (id VARCHAR, total_tax DECIMAL(18,2))")
    for options in ((), ("--dry-run",)):
        refused = apply(*options)
        assert refused.exit_code == 3
        for text in (ORDERS, "id", "BIGINT", "VARCHAR", "total_tax", "DOUBLE", "DECIMAL(18,2)", "hint"):
            assert text in refused.stderr, text
        with lake_of(tenant) as lake:
            assert types_of(lake, ORDERS) == {"id": "VARCHAR", "total_tax": "DECIMAL(18,2)"}
            assert types_of(lake, "meta.feeder_files") == {}


@pytest.mark.usefixtures("environment")
def test_a_lake_of_a_newer_program_is_refused(tenant: Tenant) -> None:
    assert apply().exit_code == 0
    with lake_of(tenant) as lake:
        lake.query(
            "UPDATE meta.lotus_lake SET schema_version = ?, app_version = '99.1'", (SCHEMA_VERSION + 1,)
        )
    for options in ((), ("--dry-run",)):
        refused = apply(*options)
        assert refused.exit_code == 3
        assert f"schema version {SCHEMA_VERSION + 1}" in refused.stderr
        assert "99.1" in refused.stderr
        assert "hint" in refused.stderr


@pytest.mark.usefixtures("environment")
def test_staging_rows_without_a_ledger_are_someone_else_s(tenant: Tenant) -> None:
    with lake_of(tenant) as lake:
        lake.query("CREATE SCHEMA staging")
        lake.query(f"CREATE TABLE {ORDERS} (id BIGINT)")
        lake.query(f"INSERT INTO {ORDERS} VALUES (1)")
    refused = apply()
    assert refused.exit_code == 3
    assert f"{ORDERS} has rows" in refused.stderr
    with lake_of(tenant) as lake:
        assert types_of(lake, ORDERS) == {"id": "BIGINT"}
        lake.query(f"DELETE FROM {ORDERS}")
    # An empty table is nobody's.
    assert apply().exit_code == 0


def test_the_project_of_the_setting_is_applied_and_a_wrong_file_is_named(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = find_project(None)
    shutil.copytree(project.ddl, tmp_path / "ddl")
    shutil.copytree(project.transforms, tmp_path / "transforms")
    wrong = tmp_path / "ddl" / "shopify" / "stg_shopify__orders.sql"
    wrong.write_text(wrong.read_text().replace("-- on_delete: keep", "-- on_delete: perhaps"))
    environment.setenv("LOTUS_PROJECT_DIR", str(tmp_path))
    refused = apply("--dry-run")
    assert refused.exit_code == 3
    assert "stg_shopify__orders.sql" in refused.stderr
    assert "perhaps" in refused.stderr


def test_exit_statuses_of_a_wrong_setting_and_a_wrong_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LOTUS_CATALOG_PASSWORD", "not-the-password")
    refused = apply()
    assert refused.exit_code == 3
    assert "LOTUS_CATALOG_HOST" in refused.stderr  # the hint
    assert "not-the-password" not in refused.output
    environment.setenv("LOTUS_CATALOG_PORT", "9")
    assert apply().exit_code == 3
    environment.delenv("LOTUS_CATALOG_PASSWORD")
    assert apply().exit_code == 2
