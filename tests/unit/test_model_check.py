"""Models are bound before anything runs, and what is wrong is named with its file and line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.cli import app
from feeders.model_check import check_models
from feeders.models import load_models
from feeders.project import SqlFileError, find_project
from tests.lakes import definitions

DEFINED = definitions()
HEAD = "-- key: order_id\n-- map: staging.stg_shopify__orders: id\n"
SELECT = "SELECT id AS order_id, customer.id AS customer_id\nFROM staging.stg_shopify__orders\n"


def checked(folder: Path, **files: str) -> list[SqlFileError]:
    """What is wrong with the models of these names and texts."""
    for name, text in files.items():
        place = "enriched/sales" if name.startswith("fct_") else "processed/shopify"
        path = folder / "transforms" / place / f"{name}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    project = replace(find_project(None), transforms=folder / "transforms")
    return check_models(load_models(project), DEFINED.tables)


def test_the_projects_own_models_are_right() -> None:
    assert check_models(DEFINED.models, DEFINED.tables) == []


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (HEAD + SELECT.replace("customer.id", "\n  custommer.id"), 4, "does not bind: .*custommer"),
        (
            HEAD.replace("order_id", "number", 1) + SELECT,
            1,
            "its key is number, which is none of its columns",
        ),
        (HEAD.replace(": id\n", ": name\n") + SELECT, 2, "the map of .*name"),
        (
            HEAD + SELECT.replace("AS customer_id", "AS Order_id"),
            3,
            "more than one column of the name order_id",
        ),
        (
            HEAD.replace(": id\n", ": financial_status\n") + SELECT,
            2,
            "gives VARCHAR, the key order_id is BIGINT",
        ),
        (
            HEAD.replace(": id\n", ": SELECT id FROM changed\n")
            + "-- restrict: staging.stg_shopify__orders: number IN (FROM keys)\n"
            + SELECT,
            2,
            "the restrict of .*number",
        ),
        (
            HEAD + "SELECT staging.stg_shopify__orders.id AS order_id FROM staging.stg_shopify__orders",
            2,
            "cut down to affected keys it does not bind",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    below = HEAD.replace("staging.stg_shopify__orders: id", "main.int_shopify__x: order_id")
    [error] = checked(tmp_path, int_shopify__x=text, fct_x=below + "SELECT order_id FROM main.int_shopify__x")
    assert error.path.name == "int_shopify__x.sql"
    assert error.line == line
    with pytest.raises(SqlFileError, match=what):
        raise error


def test_a_model_that_is_only_rebuilt_has_its_select_bound(tmp_path: Path) -> None:
    head = "-- key: order_id\n-- rebuild_only: true\n"
    assert checked(tmp_path, int_shopify__x=head + SELECT) == []
    [error] = checked(tmp_path, int_shopify__x=head + SELECT.replace("customer.id", "none.id"))
    assert error.line == 3


def test_what_does_not_parse_is_named_with_its_line_and_the_command_ends_with_status_1(
    tmp_path: Path,
) -> None:
    for name in ("ddl", "transforms"):
        shutil.copytree(getattr(find_project(None), name), tmp_path / name)
    [file] = (tmp_path / "transforms").rglob("fct_sales.sql")
    file.write_text(file.read_text().replace("FROM amounts", "FROMM amounts"))
    line = 1 + file.read_text().splitlines().index("FROMM amounts")
    done = CliRunner().invoke(app, ["transform", "check", "--json"], env={"LOTUS_PROJECT_DIR": str(tmp_path)})
    assert done.exit_code == 1
    [wrong] = json.loads(done.stdout)["wrong"]
    assert (wrong["file"], wrong["line"]) == (str(file), line)


@pytest.mark.parametrize("command", ["check", "graph"])
def test_the_command_needs_no_settings_of_servers(command: str) -> None:
    done = CliRunner().invoke(app, ["transform", command])
    assert done.exit_code == 0, done.output
    assert str(len(DEFINED.models)) in done.stdout or "main.fct_sales" in done.stdout
