"""The models' files: what is read from them, their order, and what is refused."""

from pathlib import Path

import pytest

from feeders.models import Input, below, load_models
from feeders.project import Project, ProjectError, SqlFileError, find_project

INT = "processed/a/int_a__{}.sql"
FCT = "enriched/sales/fct_{}.sql"


def project(tmp_path: Path, models: dict[str, str]) -> Project:
    for name in ("stg_a__one", "stg_a__two"):
        path = tmp_path / "ddl" / "a" / f"{name}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for name, text in models.items():
        path = tmp_path / "transforms" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Project(ddl=tmp_path / "ddl", transforms=tmp_path / "transforms", origin="checkout")


def reads(*tables: str, key: str = "id") -> str:
    maps = "".join(f"-- map: {table}: id\n" for table in tables)
    return f"-- key: {key}\n{maps}SELECT id FROM {' NATURAL JOIN '.join(tables)}"


def test_a_model_is_read_from_its_file(tmp_path: Path) -> None:
    text = (
        "-- One row per thing.\n"
        "-- key: thing_id\n"
        "-- map: staging.stg_a__one: id\n"
        "-- map: staging.stg_a__two:\n"
        "--     SELECT one_id FROM changed\n"
        "-- restrict: staging.stg_a__two: one_id IN (SELECT key FROM keys)\n"
        "\n"
        "WITH x AS (SELECT * FROM staging.stg_a__one -- staging.stg_a__none\n"
        ")\n"
        "SELECT id AS thing_id FROM x JOIN staging.stg_a__two AS y ON x.id = y.one_id; \n"
    )
    (model,) = load_models(project(tmp_path, {INT.format("things"): text}))
    assert (model.name, model.table, model.key) == ("int_a__things", "main.int_a__things", "thing_id")
    assert model.sql.startswith("WITH x AS")
    assert model.sql.endswith("y.one_id")
    assert model.inputs == (
        Input(
            table="staging.stg_a__one",
            keys_sql='SELECT "id" FROM changed',
            restrict_sql='"id" IN (SELECT key FROM keys)',
            column="id",
            line=3,
        ),
        Input(
            table="staging.stg_a__two",
            keys_sql="SELECT one_id FROM changed",
            restrict_sql="one_id IN (SELECT key FROM keys)",
            line=4,
        ),
    )
    assert model.first_line == 8


def test_the_hash_changes_with_a_header(tmp_path: Path) -> None:
    (one,) = load_models(project(tmp_path / "1", {INT.format("x"): reads("staging.stg_a__one")}))
    (two,) = load_models(project(tmp_path / "2", {INT.format("x"): reads("staging.stg_a__one", key="k")}))
    assert one.sql == two.sql
    assert one.sql_hash != two.sql_hash


def test_models_come_after_what_they_read(tmp_path: Path) -> None:
    models = load_models(
        project(
            tmp_path,
            {
                INT.format("y"): reads("main.int_a__z"),
                INT.format("z"): reads("staging.stg_a__one"),
                INT.format("w"): reads("staging.stg_a__two"),
                FCT.format("a"): reads("main.int_a__y", "main.fct_b"),
                FCT.format("b"): reads("main.int_a__w"),
            },
        )
    )
    names = [model.name for model in models]
    assert sorted(names) == ["fct_a", "fct_b", "int_a__w", "int_a__y", "int_a__z"]
    assert names.index("int_a__z") < names.index("int_a__y") < names.index("fct_a")
    assert names.index("int_a__w") < names.index("fct_b") < names.index("fct_a")
    assert [each.name for each in below(models, ["staging.stg_a__two"])] == ["int_a__w", "fct_b", "fct_a"]
    assert below(models, ["staging.stg_a__three"]) == ()


def test_a_circle_is_refused_with_its_files(tmp_path: Path) -> None:
    files = {INT.format("x"): reads("main.int_a__y"), INT.format("y"): reads("main.int_a__x")}
    with pytest.raises(ProjectError, match=r"circle: main\.int_a__") as error:
        load_models(project(tmp_path, files))
    assert all(str(tmp_path / "transforms" / name) in str(error.value) for name in files)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    text = reads("staging.stg_a__one")
    with pytest.raises(ProjectError, match="two models have the name fct_x"):
        load_models(project(tmp_path, {"enriched/a/fct_x.sql": text, "enriched/b/fct_x.sql": text}))


GOOD = reads("staging.stg_a__one")
QUERY_MAP = "-- key: id\n-- map: staging.stg_a__one: SELECT id FROM changed\n"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("processed/b/int_a__x.sql", GOOD, "not the place and name of a processed model"),
        ("processed/a/fct_x.sql", GOOD, "not the place and name of a processed model"),
        ("enriched/fct_x.sql", GOOD, "not the place and name of an enriched model"),
        (
            INT.format("x"),
            GOOD.replace("one", "onne"),
            "reads staging.stg_a__onne, .*\n.*is it staging.stg_a__one",
        ),
        (INT.format("x"), "-- key: id\nSELECT 1 AS id", "header 'map' is missing"),
        (INT.format("x"), GOOD.replace("-- key: id\n", ""), "header 'key' is missing"),
        (INT.format("x"), "-- rebuild_only: true\n" + GOOD, "header 'map' in a model that is only rebuilt"),
        (
            INT.format("x"),
            QUERY_MAP + "-- restrict: staging.stg_a__one: true\n"
            "WITH Keys AS (SELECT 1 AS id) SELECT id FROM staging.stg_a__one",
            "has a WITH of the name keys",
        ),
        (
            INT.format("x"),
            GOOD.replace("key: id", "key: id, x"),
            "sql:1: header 'key' is 'id, x', not one column",
        ),
        (
            INT.format("x"),
            GOOD + " JOIN staging.stg_a__two USING (id)",
            "reads staging.stg_a__two without a header",
        ),
        (INT.format("x"), GOOD.replace("staging.stg", "stg"), "reads 'stg_a__one', a name without schema"),
        (
            INT.format("x"),
            "-- map: staging.stg_a__two: id\n" + GOOD,
            "sql:1: .* which the model does not read",
        ),
        (INT.format("x"), "-- map: staging.stg_a__one: id\n" + GOOD, "sql:3: a second header 'map'"),
        (INT.format("x"), "-- map: id\n" + GOOD, "sql:1: header 'map' is 'id', not 'schema.table: …'"),
        (INT.format("x"), QUERY_MAP + "SELECT id FROM staging.stg_a__one", "sql:2: .* no header 'restrict'"),
        (INT.format("x"), GOOD.replace("one: id", "one: id +"), "sql:2: maps .* with a SELECT"),
        (
            INT.format("x"),
            "-- restrict: staging.stg_a__one: id IN (SELECT id FROM staging.stg_a__two)\n" + GOOD,
            "sql:1: the map reads staging.stg_a__two, which the model does not read",
        ),
        (INT.format("x"), GOOD + "; DROP TABLE y", "the model is not one SELECT"),
        (INT.format("x"), GOOD.replace("SELECT id", "DELETE"), "the model is not one SELECT"),
        (INT.format("x"), GOOD + " WHERE (", "the model does not parse"),
        (INT.format("x"), GOOD + ", read_parquet('x')", "READ_PARQUET.*, which is not a table of this lake"),
        (INT.format("x"), GOOD + ", other.main.x", "other.main.x, which is not a table of this lake"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, name: str, text: str, error: str) -> None:
    with pytest.raises(SqlFileError, match=error) as caught:
        load_models(project(tmp_path, {name: text}))
    assert str(tmp_path / "transforms" / name) in str(caught.value)


def test_every_table_that_it_names_is_cut_down_to_the_affected_keys(tmp_path: Path) -> None:
    text = """-- key: id
-- map: staging.stg_a__one: id
-- map: staging.stg_a__two: SELECT id FROM changed
-- restrict: staging.stg_a__two: n > 1 -- and more
SELECT one.id, stg_a__two.n, 'staging.stg_a__one' AS name -- staging.stg_a__one
FROM "staging"."stg_a__one" AS one, staging . stg_a__two
WHERE one.id NOT IN (SELECT id FROM staging.stg_a__one)
"""
    (model,) = load_models(project(tmp_path, {INT.format("x"): text}))
    one = '(SELECT * FROM staging.stg_a__one WHERE "id" IN (SELECT key FROM keys)\n)'
    two = '(SELECT * FROM staging.stg_a__two WHERE n > 1 -- and more\n) AS "stg_a__two"'
    assert model.restricted_sql == (
        "SELECT one.id, stg_a__two.n, 'staging.stg_a__one' AS name -- staging.stg_a__one\n"
        f"FROM {one} AS one, {two}\n"
        f'WHERE one.id NOT IN (SELECT id FROM {one} AS "stg_a__one")'
    )


def test_a_model_that_is_only_rebuilt_needs_no_map(tmp_path: Path) -> None:
    text = "-- key: id\n-- rebuild_only: true\nSELECT id FROM staging.stg_a__one"
    (model,) = load_models(project(tmp_path, {INT.format("x"): text}))
    assert model.rebuild_only
    assert [each.table for each in model.inputs] == ["staging.stg_a__one"]


def test_the_project_has_its_models() -> None:
    models = load_models(find_project(None))
    names = [model.name for model in models]
    assert sorted(names) == [
        "fct_customer_engagement",
        "fct_sales",
        "int_klaviyo__campaigns",
        "int_klaviyo__events",
        "int_klaviyo__flows",
        "int_klaviyo__lists",
        "int_klaviyo__metrics",
        "int_klaviyo__profiles",
        "int_shopify__customers",
        "int_shopify__order_refunds",
        "int_shopify__orders",
    ]
    assert names[-2:] == ["fct_sales", "fct_customer_engagement"]
    reached = below(models, ["staging.stg_shopify__order_refunds"])
    assert [model.name for model in reached] == [
        "int_shopify__order_refunds",
        "fct_sales",
        "fct_customer_engagement",
    ]
