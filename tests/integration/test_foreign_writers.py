"""Files by other writers (tests/data/parquet): planned, loaded by the writer's form of INSERT, compared.

Each `.json` says what its file should become in staging, from the values that were written.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest

from feeders.parquet import Limits, inspect, verify_pages
from feeders.schema import LoadPlan, plan_load
from feeders.streams import Column
from feeders.types import DuckType, List, Map, Scalar, Struct, fold, parse_type, quote_identifier

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "data" / "parquet"
NAMES = sorted(path.stem for path in CORPUS.glob("*.parquet"))

FOUND_BY_DUCKDB = {"mr_binary_bad_utf8_orders", "mr_string_bad_utf8_orders"}
"""A footer can't show bytes that are not UTF-8: the first INSERT fails, and the careful plan loads."""

REWRITTEN_WITHOUT_LOSS = {
    # DECIMAL to DOUBLE below the top level
    "mr_decimal_fixed_orders",
    "mr_decimal_int32_binary_refunds",
    "mr_decimal_int64_orders",
    "mr_decimal_negative_orders",
    "spark_decimal_orders",
    # DuckDB refuses the codec, or reads the list wrong
    "mr_lz4_events",
    "mr_old_list_one_field_refunds",
    # nanoseconds have to be looked at
    "mr_ts_mixed_events",
    "mr_ts_nanos_orders",
    "polars_ns_orders",
}
"""All other files without something to rescue are read by DuckDB as they are."""


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        opened.execute("SET TimeZone = 'UTC'; CREATE SCHEMA staging")
        yield opened


@pytest.fixture
def lake(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    connection.execute("DROP SCHEMA staging CASCADE; CREATE SCHEMA staging")
    return connection


def expectation(name: str) -> dict[str, Any]:
    return json.loads((CORPUS / f"{name}.json").read_text("utf-8"))


def create(lake: duckdb.DuckDBPyConnection, stream: str) -> tuple[str, tuple[Column, ...]]:
    source, _, short = stream.partition(".")
    table = f"staging.stg_{source}__{short}"
    lake.execute((ROOT / "ddl" / source / f"stg_{source}__{short}.sql").read_text("utf-8"))
    rows = lake.execute(f"DESCRIBE {table}").fetchall()
    return table, tuple(Column(name=name, type=kind) for name, kind, *_ in rows)


def insert(lake: duckdb.DuckDBPyConnection, table: str, plans: list[LoadPlan]) -> None:
    names = ", ".join(quote_identifier(name) for name, _ in plans[0].projection)
    sources = ", ".join(expression for _, expression in plans[0].projection)
    paths = [str(plan.path) for plan in plans]
    lake.execute(
        f"INSERT INTO {table} ({names}, year, month, day, _source_file)"
        f" SELECT {sources}, landed.year, landed.month, landed.day, landed.key"
        " FROM read_parquet(?, filename = '_lotus_path', hive_partitioning = false, union_by_name = false,"
        " binary_as_string = true) AS file JOIN (SELECT unnest(?) AS path, unnest(?) AS key,"
        " 2026 AS year, '05' AS month, '16' AS day) AS landed ON file._lotus_path = landed.path",
        [paths, paths, paths],
    )


def staged(lake: duckdb.DuckDBPyConnection, table: str) -> list[dict[str, Any]]:
    found = lake.execute(f"SELECT * FROM {table} ORDER BY _airbyte_raw_id")
    return cast("Any", found.to_arrow_table)().to_pylist()


def expected_value(value: Any, target: DuckType) -> Any:
    if value is None:
        return None
    match target:
        case Struct():
            given = {fold(name): inner for name, inner in value.items()}
            assert not given.keys() - {fold(each.name) for each in target.fields}
            return {
                each.name: expected_value(given.get(fold(each.name)), each.type) for each in target.fields
            }
        case List():
            return [expected_value(inner, target.element) for inner in value]
        case Scalar(name="TIMESTAMP WITH TIME ZONE"):
            return datetime.fromisoformat(value)
        case Scalar() | Map():
            return value


def raw_id(row: dict[str, Any]) -> str:
    return next(value for name, value in row.items() if fold(name) == "_airbyte_raw_id")


def check(
    name: str, lake: duckdb.DuckDBPyConnection, work_dir: Path, *, careful: bool = False
) -> tuple[LoadPlan, list[LoadPlan]]:
    """Load one file and compare all its rows; return the plan that loaded and those that failed."""
    wanted = expectation(name)
    table, columns = create(lake, wanted["stream"])
    path = CORPUS / f"{name}.parquet"
    footer = inspect(path, Limits())
    plan = plan_load(path, footer, columns, work_dir=work_dir, careful=careful)
    failed: list[LoadPlan] = []
    if plan.rows:
        try:
            insert(lake, table, [plan])
        except duckdb.Error:
            failed.append(plan)
            plan = plan_load(path, footer, columns, work_dir=work_dir, careful=True)
            insert(lake, table, [plan])
    rows = staged(lake, table)
    assert len(rows) == plan.rows == wanted["rows"]
    rescued = 0
    for row, should in zip(rows, sorted(wanted["staging"], key=raw_id), strict=True):
        found = {fold(key): value for key, value in should.items() if key != "rescued"}
        for column in columns:
            if column.name in {"year", "month", "day", "_source_file", "_rescued_data"}:
                continue
            value = expected_value(found.pop(fold(column.name), None), parse_type(column.type))
            assert row[column.name] == value, column.name
        assert not found
        text = row["_rescued_data"]
        assert (json.loads(text) if text else None) == should.get("rescued")
        rescued += "rescued" in should
        assert (row["year"], row["month"], row["day"]) == (2026, "05", "16")
    assert plan.rescued_rows == rescued
    return plan, failed


@pytest.mark.parametrize("name", NAMES)
def test_a_file_becomes_what_was_written(name: str, lake: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    plan, failed = check(name, lake, tmp_path)
    expect = expectation(name)["expect"]
    assert ("empty" if plan.rows == 0 else plan.kind) == expect
    assert bool(failed) == (name in FOUND_BY_DUCKDB)
    assert plan.normalized == (expect == "rescue" or name in REWRITTEN_WITHOUT_LOSS)


@pytest.mark.parametrize("name", NAMES)
def test_a_careful_plan_loads_the_same(name: str, lake: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    plan, _ = check(name, lake, tmp_path, careful=True)
    assert plan.normalized == bool(plan.rows)
    assert ("empty" if plan.rows == 0 else plan.kind) == expectation(name)["expect"]


def test_all_pages_can_be_read() -> None:
    for name in NAMES:
        path = CORPUS / f"{name}.parquet"
        verify_pages(path, inspect(path, Limits()))


@pytest.mark.parametrize("stream", ["shopify.orders", "shopify.order_refunds", "klaviyo.events"])
def test_files_of_one_signature_are_read_together(
    stream: str, lake: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    table, columns = create(lake, stream)
    groups: dict[str, list[LoadPlan]] = {}
    wanted: list[dict[str, Any]] = []
    for name in NAMES:
        path = CORPUS / f"{name}.parquet"
        if expectation(name)["stream"] != stream or name in FOUND_BY_DUCKDB:
            continue
        plan = plan_load(path, inspect(path, Limits()), columns, work_dir=tmp_path)
        if plan.rows:
            groups.setdefault(plan.signature, []).append(plan)
            wanted.extend(expectation(name)["staging"])
    assert max(len(plans) for plans in groups.values()) > 1
    for plans in groups.values():
        insert(lake, table, plans)
    found = staged(lake, table)
    texts = [row["_rescued_data"] for row in found]
    assert [row["_airbyte_raw_id"] for row in found] == sorted(raw_id(row) for row in wanted)
    assert sum(text is not None for text in texts) == sum("rescued" in row for row in wanted)


@pytest.mark.parametrize("zone", ["Pacific/Auckland"])
def test_the_zone_of_the_machine_changes_nothing(zone: str) -> None:
    names = "mr_ts_local or mr_ts_nanos or mr_text_timestamp or int96 or ntz or hyparquet or 1969"
    here = f"{Path(__file__)}::test_a_file_becomes_what_was_written"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", names, here]
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"\b8 passed", ran.stdout), ran.stdout
