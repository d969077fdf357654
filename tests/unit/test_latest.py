"""Which SELECTs are known to take the newest row of each key."""

import duckdb
import pytest
import sqlglot
from sqlglot import exp

from feeders.latest import NOT_OF_THE_ROW, newest_by
from feeders.models import load_models
from feeders.project import find_project

ORDER = "ORDER BY at DESC NULLS LAST, raw_id DESC"
QUALIFY = f"QUALIFY row_number() OVER (PARTITION BY id {ORDER}) = 1"
WITH = "WITH v AS (SELECT k AS id, at, x, raw_id FROM staging.t WHERE k IS NOT NULL)"


def newest(sql: str, *, mapped: str = "id") -> str | None:
    query = sqlglot.parse_one(sql, dialect="duckdb")
    assert isinstance(query, exp.Query)
    return newest_by(query, key="id", mapped=mapped)


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT * FROM staging.t {QUALIFY}",
        f"SELECT id, at, upper(x) AS y FROM staging.t WHERE x > 0 {QUALIFY}",
        f"SELECT * EXCLUDE (raw_id) FROM staging.t AS t {QUALIFY}",
        f"SELECT ID, At FROM staging.t {QUALIFY}",
        "SELECT id, at FROM staging.t QUALIFY row_number() OVER (PARTITION BY id ORDER BY at DESC) = 1",
    ],
)
def test_the_newest_row_of_each_key_of_a_table(sql: str) -> None:
    assert newest(sql) == "at"
    assert newest(sql, mapped="other") is None


def test_the_newest_row_of_what_one_with_makes_of_each_row() -> None:
    sql = f"{WITH} SELECT * EXCLUDE (raw_id) FROM v {QUALIFY}"
    assert newest(sql, mapped="k") == "at"
    assert newest(sql, mapped="id") is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, at FROM staging.t",
        f"SELECT id FROM staging.t {QUALIFY}",
        f"SELECT id, at + INTERVAL 1 DAY AS at FROM staging.t {QUALIFY}",
        f"SELECT * REPLACE (now() AS at) FROM staging.t {QUALIFY}",
        f"SELECT * RENAME (at AS then) FROM staging.t {QUALIFY}",
        f"SELECT * EXCLUDE (at) FROM staging.t {QUALIFY}",
        f"SELECT t.* FROM staging.t AS t {QUALIFY}",
        f"SELECT COLUMNS(*) FROM staging.t {QUALIFY}",
        f"SELECT id, at, sum(x) OVER (PARTITION BY id) AS y FROM staging.t {QUALIFY}",
        f"SELECT id, at, (SELECT max(x) FROM staging.t) AS y FROM staging.t {QUALIFY}",
        f"SELECT id, at FROM staging.t WHERE x = (SELECT max(x) FROM staging.t) {QUALIFY}",
        f"SELECT id, at FROM staging.t JOIN staging.u USING (id) {QUALIFY}",
        f"SELECT id, at FROM staging.t, staging.u {QUALIFY}",
        f"SELECT DISTINCT id, at FROM staging.t {QUALIFY}",
        f"SELECT id, at FROM staging.t GROUP BY ALL {QUALIFY}",
        f"SELECT id, at FROM staging.t {QUALIFY} LIMIT 3",
        f"SELECT id, at FROM staging.t {QUALIFY} UNION ALL SELECT id, at FROM staging.t {QUALIFY}",
        f"SELECT id, at FROM staging.t USING SAMPLE 3 {QUALIFY}",
        f"SELECT id, at FROM staging.t AT (VERSION => 3) {QUALIFY}",
        f"SELECT id, at FROM staging.t {QUALIFY.replace('= 1', '<= 1')}",
        f"SELECT id, at FROM staging.t {QUALIFY.replace('= 1', '= 2')}",
        f"SELECT id, at FROM staging.t {QUALIFY.replace('row_number', 'rank')}",
        f"SELECT id, at FROM staging.t {QUALIFY.replace('at DESC NULLS LAST', 'at')}",
        f"SELECT id, at FROM staging.t {QUALIFY.replace('at DESC', 'abs(at) DESC')}",
        f"SELECT id, at FROM staging.t {QUALIFY.replace('PARTITION BY id', 'PARTITION BY id, x')}",
        f"SELECT id, at FROM staging.t {QUALIFY.replace('PARTITION BY id', 'PARTITION BY x')}",
        f"SELECT id, at FROM staging.t {QUALIFY} AND x > 0",
        f"SELECT id, at, unnest(xs) AS x FROM staging.t {QUALIFY}",
        f"SELECT id, at FROM staging.t WHERE at > now() - INTERVAL 30 DAY {QUALIFY}",
        f"SELECT id, at FROM staging.t WHERE at > current_date {QUALIFY}",
        f"SELECT id, at FROM staging.t WHERE random() < 0.5 {QUALIFY}",
        f"SELECT id, at FROM staging.t AS t(a, b, id) {QUALIFY}",
        f"SELECT id, at FROM staging.t {QUALIFY.replace('row_number()', 'row_number(ORDER BY x)')}",
    ],
)
def test_what_is_of_another_shape_is_not_known(sql: str) -> None:
    assert newest(sql) is None


@pytest.mark.parametrize(
    "cte",
    [
        "SELECT k AS id, max(at) AS at FROM staging.t GROUP BY k",
        "SELECT DISTINCT k AS id, at FROM staging.t",
        "SELECT k AS id, at FROM staging.t LIMIT 3",
        "SELECT k + 1 AS id, at FROM staging.t",
        "SELECT k AS id, at FROM staging.t JOIN staging.u USING (k)",
        "SELECT k AS id, lead(at) OVER (ORDER BY at) AS at FROM staging.t",
        "SELECT k AS id, at FROM (SELECT * FROM staging.t)",
    ],
)
def test_nor_what_a_with_makes_of_several_rows(cte: str) -> None:
    assert newest(f"WITH v AS ({cte}) SELECT id, at FROM v {QUALIFY}", mapped="k") is None


@pytest.mark.parametrize(
    "source",
    ["v TABLESAMPLE 50%", "v AS w(other, names)", "v PIVOT (sum(x) FOR k IN (1 AS at, 2 AS n))", "u"],
)
def test_nor_what_reads_a_with_otherwise_than_it_is(source: str) -> None:
    assert newest(f"{WITH} SELECT * FROM v {QUALIFY}", mapped="k") == "at"
    assert newest(f"{WITH} SELECT * FROM {source} {QUALIFY}", mapped="k") is None
    assert (
        newest(f"{WITH.replace('v AS', 'v(id, at, x, raw_id) AS')} SELECT * FROM v {QUALIFY}", mapped="k")
        is None
    )


def test_every_function_that_is_not_of_the_row_alone_is_known() -> None:
    names = duckdb.sql(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
    )
    assert {name for (name,) in names.fetchall()} <= NOT_OF_THE_ROW


def test_of_our_models_those_of_latest_versions_are_known() -> None:
    known = {model.name for model in load_models(find_project(None)) if model.newest_by is not None}
    assert known == {
        "int_klaviyo__campaigns",
        "int_klaviyo__events",
        "int_klaviyo__flows",
        "int_klaviyo__lists",
        "int_klaviyo__metrics",
        "int_klaviyo__profiles",
        "int_shopify__customers",
        "int_shopify__orders",
    }
