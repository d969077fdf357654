"""What a file of `transforms/checks/` has to be."""

from dataclasses import replace
from pathlib import Path

import pytest

from feeders.checks import Check, load_checks
from feeders.model_check import check_models
from feeders.project import SqlFileError, find_project
from tests.lakes import definitions

DEFINED = definitions()
BUILT_IN = len(DEFINED.models)
SELECT = "SELECT order_id\nFROM main.fct_sales\nWHERE total_sales < 0"


def loaded(folder: Path, name: str, text: str) -> tuple[Check, ...]:
    path = folder / "transforms" / "checks" / f"{name}.sql"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    project = replace(find_project(None), transforms=folder / "transforms")
    return load_checks(project, DEFINED.models, DEFINED.tables)


def test_each_model_has_a_check_of_its_key_and_the_project_has_its_own() -> None:
    checks = load_checks(find_project(None), DEFINED.models, DEFINED.tables)
    names = [check.name for check in checks]
    assert names[:BUILT_IN] == [f"unique_key_of_{model.name}" for model in DEFINED.models]
    assert "no_lost_orders" in names[BUILT_IN:]
    assert check_models(DEFINED.models, DEFINED.tables, checks) == []


def test_a_check_is_what_its_file_says(tmp_path: Path) -> None:
    [*_, check] = loaded(tmp_path, "negative_sales", f"-- severity: warn\n-- Prose.\n\n{SELECT};\n")
    assert (check.name, check.severity, check.sql, check.tables, check.first_line) == (
        "negative_sales",
        "warn",
        SELECT,
        frozenset({"main.fct_sales"}),
        4,
    )


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("negative_sales", SELECT, "severity"),
        ("negative_sales", f"-- severity: fatal\n{SELECT}", "fatal"),
        ("negative_sales", "-- severity: warn\nDELETE FROM main.fct_sales", "is not one SELECT"),
        ("negative_sales", f"-- severity: warn\n{SELECT}; SELECT 1", "is not one SELECT"),
        ("negative_sales", "-- severity: warn\nSELECT 1 FROM main.fct_sale", "hint: is it main.fct_sales"),
        ("negative_sales", "-- severity: warn\nSELECT 1 FROM read_parquet('s3://x')", "not a table of this lake"),
        ("Negative-Sales", f"-- severity: warn\n{SELECT}", "not the place and name of a check"),
        ("more/negative_sales", f"-- severity: warn\n{SELECT}", "not the place and name of a check"),
        ("unique_key_of_fct_sales", f"-- severity: warn\n{SELECT}", "without a file"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, text: str, what: str) -> None:
    with pytest.raises(SqlFileError, match=what):
        loaded(tmp_path, name, text)


def test_a_check_that_does_not_bind_is_found_with_its_line(tmp_path: Path) -> None:
    checks = loaded(
        tmp_path, "negative_sales", "-- severity: warn\nSELECT order_id\nFROM main.fct_sales\nWHERE net < 0"
    )
    [error] = check_models(DEFINED.models, DEFINED.tables, checks)
    assert error.line == 4
    assert "net" in error.what
