"""Models after commits: equal to their SELECTs; one that fails is held back alone; rebuilt by hand meanwhile."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.compare import SALES_SELECT_LIST, compare_sales
from consumer.landing.generate import Landing
from consumer.settings import inherited_environment
from feeders.lake import Lake, LakeConflict
from feeders.models import Model, load_models
from feeders.project import find_project
from tests.helpers import wait_until
from tests.service import WORK_TIMEOUT_S, RunningService, put_all, running_service

BROKEN = "int_shopify__orders"
HELD_BACK = {BROKEN, "fct_sales", "fct_customer_engagement"}


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> Tenant:
    return stack.tenant("transform")


@pytest.fixture(scope="module")
def landing() -> Landing:
    return Landing(seed=11, files=None, rows=(5, 25))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which one model has a wrong SELECT."""
    folder, found = tmp_path_factory.mktemp("project"), find_project(None)
    shutil.copytree(found.ddl, folder / "ddl")
    shutil.copytree(found.transforms, folder / "transforms")
    path = path_of_broken(folder)
    path.write_text(path.read_text().replace("financial_status,", "financial_status_of_long_ago,", 1))
    return folder


def path_of_broken(project: Path) -> Path:
    return project / "transforms" / "processed" / "shopify" / f"{BROKEN}.sql"


def land(tenant: Tenant, landing: Landing, files: int) -> None:
    """Lands so many files more."""
    put_all(tenant, {file.key: file.body for _, file in zip(range(files), landing, strict=False)})


def tables(service: RunningService) -> set[str]:
    return {
        str(name)
        for (name,) in service.rows(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lakehouse' AND schema_name = 'main'"
        )
    }


def rows_beyond(lake: Lake, model: Model) -> tuple[int, int]:
    """How many rows a model's table has beyond its SELECT over the whole input, and the other way round."""
    [(more, less)] = lake.query(
        f"WITH wanted AS MATERIALIZED (SELECT * FROM ({model.sql}\n))"
        f" SELECT (SELECT count(*) FROM (FROM {model.table} EXCEPT ALL FROM wanted)),"
        f" (SELECT count(*) FROM (FROM wanted EXCEPT ALL FROM {model.table}))"
    )
    return more, less


def until_fresh(service: RunningService, landing: Landing) -> None:
    """Waits until fct_sales is what the landing expects."""

    def is_fresh() -> bool:
        if "fct_sales" not in tables(service):
            return False
        found = service.rows(f"SELECT {SALES_SELECT_LIST} FROM main.fct_sales")
        return compare_sales(landing.expected_sales(), found).equal

    wait_until(is_fresh, timeout_s=WORK_TIMEOUT_S, what="fct_sales as expected")


def test_a_failing_model_is_held_back_with_what_reads_it_and_the_others_commit(
    tenant: Tenant, landing: Landing, project: Path
) -> None:
    models = {model.name: model for model in load_models(find_project(None))}
    with running_service(tenant, LOTUS_PROJECT_DIR=str(project)) as service:
        land(tenant, landing, 15)
        service.wait_for_outcomes(loaded=15)
        wait_until(
            lambda: (
                tables(service) == models.keys() - HELD_BACK
                and all(
                    rows_beyond(service.lake, models[name]) == (0, 0) for name in models.keys() - HELD_BACK
                )
            ),
            timeout_s=WORK_TIMEOUT_S,
            what="all models but the broken one and what reads it",
        )
        held = (
            "SELECT DISTINCT model, error, error_since::VARCHAR FROM meta.transform_cursors"
            " WHERE error IS NOT NULL ORDER BY model"
        )
        [(model, error, since)] = service.rows(held)
        assert model == BROKEN
        assert "BinderException" in str(error)
        # It is tried again with the next commits; since when it fails is kept.
        failing = service.service.metrics.model_errors.labels(model=BROKEN)
        assert failing._value.get() == 1  # pyright: ignore[reportPrivateUsage] - prometheus has no other reading
        land(tenant, landing, 3)
        service.wait_for_outcomes(loaded=16)
        assert service.rows(held) == [(model, error, since)]


@pytest.fixture(scope="module")
def mended(tenant: Tenant, landing: Landing, project: Path) -> Iterator[RunningService]:
    """The consumer after the model was mended."""
    path = path_of_broken(project)
    path.write_text(path.read_text().replace("financial_status_of_long_ago,", "financial_status,"))
    with running_service(tenant, LOTUS_PROJECT_DIR=str(project)) as service:
        yield service


def test_mended_it_catches_up(mended: RunningService, landing: Landing) -> None:
    until_fresh(mended, landing)
    assert mended.rows("SELECT count(*) FROM meta.transform_cursors WHERE error IS NOT NULL") == [(0,)]


def test_every_model_equals_its_select(mended: RunningService, landing: Landing) -> None:
    land(mended.tenant, landing, 15)
    until_fresh(mended, landing)
    for model in load_models(find_project(None)):
        assert rows_beyond(mended.lake, model) == (0, 0), model.name


def rebuild(service: RunningService, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs `lotus-lake transform rebuild` as an operator does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "consumer.cli", "transform", "rebuild", *arguments],
        env=inherited_environment() | service.tenant.env(),
        capture_output=True,
        text=True,
        timeout=WORK_TIMEOUT_S,
        check=False,
    )


def test_a_rebuild_by_hand_beside_the_writer(mended: RunningService, landing: Landing) -> None:
    def is_emptied() -> bool:
        with suppress(LakeConflict):  # the writer may still be at its last run
            mended.lake.query("DELETE FROM main.int_shopify__orders")
        return mended.rows("SELECT count(*) FROM main.int_shopify__orders") == [(0,)]

    wait_until(is_emptied, timeout_s=WORK_TIMEOUT_S, what="a model without rows")
    land(mended.tenant, landing, 5)  # the writer has work meanwhile
    result = rebuild(mended, BROKEN, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout).keys() == HELD_BACK  # and what reads it
    until_fresh(mended, landing)
    for model in load_models(find_project(None)):
        assert rows_beyond(mended.lake, model) == (0, 0), model.name


def test_a_model_that_is_not_there_is_wrong_usage(mended: RunningService) -> None:
    result = rebuild(mended, "fct_sale")
    assert result.returncode == 2
    assert "no such model: fct_sale" in result.stderr
    assert "fct_sales" in result.stderr
