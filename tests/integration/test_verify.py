"""A model that is not what its SELECT gives is found: by its sample, by a check, in the service and by hand."""

import json
import random
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import Counter

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing
from feeders.checks import Check, load_checks
from feeders.errors import LakeConflict
from feeders.lake import Lake
from feeders.models import Model
from feeders.project import find_project
from feeders.verify import Checked, Compared, Verifier, compare, run_check
from tests.asking import command
from tests.helpers import wait_until
from tests.lakes import definitions, lake_config
from tests.model_play import ModelPlay
from tests.service import (
    WORK_TIMEOUT_S,
    RunningService,
    order_key,
    orders,
    put,
    put_all,
    running_service,
)

ALL = 100_000


@pytest.fixture(scope="module")
def play(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPlay]:
    play = ModelPlay(
        stack.tenant("verify"), tmp_path_factory.mktemp("verify"), variants={}, rebuild_share=1.0
    )
    dice = random.Random(5)
    for _ in range(3):
        play.land(dice, 20)
    play.follow()
    yield play
    play.close()


class UndoneError(Exception):
    """Rolls a transaction back."""


@contextmanager
def tampered(lake: Lake, statement: str) -> Generator[None]:
    """While it lasts the lake's reader sees what another hand has changed past the engine."""
    with suppress(UndoneError), lake.transaction("tampered") as transaction:
        assert transaction.change(statement) == 1
        yield
        raise UndoneError


def test_samples_of_right_models_are_equal(play: ModelPlay) -> None:
    results = {model.name: compare(play.lake, model, sample=ALL) for model in play.models}
    assert {name: each.rows for name, each in results.items()} == dict.fromkeys(results, 0)
    for model in play.models:
        [(rows,)] = play.lake.query(f"SELECT count(*) FROM {model.table}")
        assert results[model.name].keys >= rows
    assert results["fct_sales"].keys > 0


LEAST = "{key} = (SELECT min({key}) FROM {table} WHERE {other} IS NOT NULL)"


@pytest.mark.parametrize(
    ("tamper", "rows"),
    [
        (f"DELETE FROM {{table}} WHERE {LEAST}", 1),
        (f"INSERT INTO {{table}} SELECT * FROM {{table}} WHERE {LEAST}", 1),
        (f"UPDATE {{table}} SET {{other}} = NULL WHERE {LEAST}", 2),
    ],
    ids=["a row is missing", "a row is there twice", "a value is another"],
)
@pytest.mark.parametrize(
    "name", ["int_klaviyo__profiles", "int_shopify__order_refunds", "fct_customer_engagement"]
)
def test_a_sample_finds_what_was_tampered_with(play: ModelPlay, name: str, tamper: str, rows: int) -> None:
    [model] = [each for each in play.models if each.name == name]
    other = {"int_shopify__order_refunds": "returns"}.get(name, "email")
    with tampered(play.lake, tamper.format(table=model.table, key=model.key, other=other)):
        assert compare(play.lake, model, sample=ALL).rows == rows
    assert compare(play.lake, model, sample=ALL).rows == 0


def test_the_checks_of_the_project_find_what_they_are_for(play: ModelPlay) -> None:
    checks = {each.name: each for each in load_checks(find_project(None), play.models, play.defined.tables)}

    def rows(name: str) -> int:
        return run_check(play.lake, checks[name]).rows

    assert {name: rows(name) for name, each in checks.items() if each.severity == "error"} == {
        name: 0 for name, each in checks.items() if each.severity == "error"
    }
    least = "order_id = (SELECT min(order_id) FROM main.fct_sales)"
    tampers = {
        "no_lost_orders": f"DELETE FROM main.fct_sales WHERE {least}",
        "sales_totals": f"UPDATE main.fct_sales SET gross_sales = coalesce(gross_sales, 0) + 0.01 WHERE {least}",
        "unique_key_of_fct_sales": f"INSERT INTO main.fct_sales SELECT * FROM main.fct_sales WHERE {least}",
        "rows_without_a_key": "INSERT INTO staging.stg_shopify__orders (_source_file) VALUES ('an odd file')",
        "amounts_not_understood": "INSERT INTO staging.stg_shopify__orders (id, total_tax) VALUES (1, 'NaN')",
    }
    refund = (
        "INSERT INTO staging.stg_shopify__order_refunds (id, transactions)"
        " SELECT 1, [struct_update(transactions[1], amount := 'a lot')]"
        " FROM staging.stg_shopify__order_refunds WHERE len(transactions) > 0 LIMIT 1"
    )
    for name, tamper in (*tampers.items(), ("amounts_not_understood", refund)):
        before = rows(name)
        with tampered(play.lake, tamper):
            found = run_check(play.lake, checks[name], examples=3)
            assert found.rows == before + 1, name
            assert len(found.examples) == min(3, found.rows)


class Heard:
    """Hears what a verifier found."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.not_empty: set[str] = set()

    def compared(self, result: Compared) -> None:
        self.names.append(result.model.name)

    def checked(self, result: Checked) -> None:
        self.names.append(result.check.name)
        if result.rows:
            self.not_empty.add(result.check.name)

    def failed(self, what: Model | Check | None, error: Exception) -> None:
        self.names.append(f"failed: {what.name if what else error}")


def rounds(verifier: Verifier, lake: Lake, play: ModelPlay) -> None:
    """Runs while it is due."""
    while verifier.due_in(idle=True) == 0:
        verifier.run(lake, play.epoch)


def test_a_round_goes_by_the_models_and_by_the_checks_after_a_rebuild(play: ModelPlay) -> None:
    checks = load_checks(find_project(None), play.models, play.defined.tables)
    now, rebuilds, behind = 0.0, 1, {"int_shopify__orders"}
    heard = Heard()
    verifier = Verifier(
        play.models,
        checks,
        heard,
        every_s=60,
        sample=10,
        is_current=lambda name: name not in behind,
        rebuilds=lambda: rebuilds,
        clock=lambda: now,
    )
    assert verifier.due_in(idle=True) == 60
    now = 61.0
    assert verifier.due_in(idle=False) is None
    rounds(verifier, play.lake, play)
    readers = {each.name for each in checks if "main.int_shopify__orders" in each.tables}
    models = {model.name for model in play.models}
    assert sorted(heard.names) == sorted(models - behind | {each.name for each in checks} - readers)
    assert verifier.due_in(idle=True) == 60

    now, behind = 122.0, set[str]()
    heard.names.clear()
    rounds(verifier, play.lake, play)
    # What could not run before, and what found something, comes again.
    assert heard.names[: len(models)] == [model.name for model in play.models]
    assert set(heard.names[len(models) :]) == readers | heard.not_empty

    now, rebuilds = 183.0, 2
    heard.names.clear()
    rounds(verifier, play.lake, play)
    assert heard.names == [*(model.name for model in play.models), *(each.name for each in checks)]


def test_the_service_tells_and_so_does_the_command(stack: Stack, tmp_path: Path) -> None:
    tenant = stack.tenant("verified")
    landing = Landing(seed=3, files=12, rows=(10, 30))
    tests = ("fct_sales", "no_lost_orders", "rows_without_a_key")

    def verdicts() -> tuple[int, dict[str, str]]:
        done = command(tenant, "transform", "test", "--json", *tests)
        found = json.loads(done.stdout.splitlines()[-1])
        return done.exit_code, {each["name"]: each["verdict"] for each in found["tested"]}

    with running_service(tenant, LOTUS_TRANSFORM_VERIFY_INTERVAL_S="0.2") as service:
        put_all(tenant, {file.key: file.body for file in landing})
        service.wait_for_outcomes(loaded=9)
        wait_until(
            lambda: (
                mismatches(service) == dict.fromkeys((model.name for model in definitions().models), 0.0)
                and rows_of_check(service, "sales_totals") == 0.0  # the last one
            ),
            timeout_s=WORK_TIMEOUT_S,
            what="a round in which all models are right",
        )
        rebuilds = service.service.metrics.model_rebuilds.labels(model="int_shopify__orders")
        before = counted(rebuilds)
        with service.expecting(loaded=1):
            put(tenant, order_key("one more"), orders(1, 2, 3))
        wait_until(
            lambda: counted(rebuilds) > before, timeout_s=WORK_TIMEOUT_S, what="a small lake's rebuild"
        )
        nameless = "ok" if rows_of_check(service, "rows_without_a_key") == 0 else "warning"
        assert verdicts() == (0, {"fct_sales": "ok", "no_lost_orders": "ok", "rows_without_a_key": nameless})
        by_another_hand(tenant, "DELETE FROM main.fct_sales")
        wait_until(
            lambda: mismatches(service)["fct_sales"] > 0,
            timeout_s=WORK_TIMEOUT_S,
            what="a sample that finds the lost orders",
        )
        assert verdicts() == (
            1,
            {"fct_sales": "wrong", "no_lost_orders": "wrong", "rows_without_a_key": nameless},
        )
        shown = command(tenant, "transform", "test", "no_lost_orders")
        assert "what lost" in shown.stdout
        other = other_project(tmp_path)
        refused = command(tenant, "transform", "rebuild", "fct_sales", LOTUS_PROJECT_DIR=other)
        assert refused.exit_code == 3
        assert "is made of another file" in refused.stderr
        held = command(tenant, "transform", "test", "fct_sales", LOTUS_PROJECT_DIR=other)
        assert "restart the service with this project" in held.stdout
        assert command(tenant, "transform", "rebuild", "main.fct_sales").exit_code == 0
        wait_until(
            lambda: mismatches(service)["fct_sales"] == 0,
            timeout_s=WORK_TIMEOUT_S,
            what="a round after the rebuild",
        )
        assert verdicts()[0] == 0


def other_project(folder: Path) -> str:
    """The project with another fct_sales."""
    found = find_project(None)
    shutil.copytree(found.ddl, folder / "ddl")
    shutil.copytree(found.transforms, folder / "transforms")
    [file] = (folder / "transforms").rglob("fct_sales.sql")
    file.write_text(file.read_text() + "-- changed\n")
    return str(folder)


def counted(counter: Counter) -> float:
    """How often."""
    [value] = [
        each.value for family in counter.collect() for each in family.samples if each.name.endswith("_total")
    ]
    return value


def by_another_hand(tenant: Tenant, statement: str) -> None:
    """Past the engine; tried again where the writer was quicker."""
    lake = Lake(lake_config(tenant, instance="d-test"))
    try:

        def is_done() -> bool:
            try:
                with lake.transaction("by another hand") as transaction:
                    return transaction.change(statement) > 0
            except LakeConflict:
                return False

        wait_until(is_done, timeout_s=WORK_TIMEOUT_S, what="a commit past the engine")
    finally:
        lake.close()


def mismatches(service: RunningService) -> dict[str, float]:
    """The last sample of each model."""
    return {
        sample.labels["model"]: sample.value
        for metric in service.service.metrics.model_mismatch_rows.collect()
        for sample in metric.samples
    }


def rows_of_check(service: RunningService, name: str) -> float | None:
    """What a check returned last; None if it has not run."""
    for metric in service.service.metrics.check_rows.collect():
        for sample in metric.samples:
            if sample.labels["check"] == name:
                return sample.value
    return None
