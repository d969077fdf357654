"""`lotus-lake check`: all is well after a run; what is unreachable is told from what is wrong, each with its cure."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from typer.testing import CliRunner, Result

from consumer.check import (
    Check,
    Finding,
    check_filer,
    check_lake,
    check_landing,
    check_loader,
    check_nats,
    check_postgres,
    guarded,
)
from consumer.cli import app
from consumer.definitions import load_definitions
from consumer.embedded.identity import S3Identity, Tenant
from consumer.embedded.stack import Stack
from consumer.settings import Settings, known_variables
from tests.service import order_key, orders, put, running_service, settings_of

SUBJECTS = ["project", "paths", "nats", "landing", "loader", "filer", "postgresql", "writer's lock", "lake"]


@pytest.fixture(scope="module")
def used(stack: Stack) -> Tenant:
    """A tenant after a run of its consumer."""
    tenant = stack.tenant("checked")
    with running_service(tenant) as service:
        put(tenant, order_key("one"), orders(1))
        service.wait_for_outcomes(loaded=1)
    return tenant


def check(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], *options: str) -> Result:
    for name in known_variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["check", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


async def find(subject: str, look: Check) -> Finding:
    finding = await guarded(subject, look)
    assert finding.subject == subject
    return finding


def as_loader(tenant: Tenant, identity: S3Identity) -> Settings:
    """The tenant's settings with another identity as the loader."""
    return settings_of(
        tenant,
        LOTUS_S3_ACCESS_KEY_ID=identity.access_key_id,
        LOTUS_S3_SECRET_ACCESS_KEY=identity.secret_access_key,
    )


def test_all_is_well_after_a_run(used: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(monkeypatch, used.env(), "--json")
    findings = json.loads(result.stdout)
    assert [(each["subject"], each["status"]) for each in findings] == [(name, "ok") for name in SUBJECTS]
    assert result.exit_code == 0
    secrets = (used.loader.secret_access_key, used.catalog.password, used.nats_password)
    assert not any(secret in result.output for secret in secrets)


def test_a_server_that_is_down_is_unreachable_and_the_other_lines_are_there(
    used: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = check(monkeypatch, used.env() | {"LOTUS_NATS_URL": "nats://127.0.0.1:9"})
    assert result.exit_code == 3
    lines = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    statuses = {name: line.split()[0] for name in SUBJECTS for line in lines if f" {name} " in line}
    assert statuses["nats"] == "unreachable"
    assert {status for name, status in statuses.items() if name != "nats"} == {"ok"}
    assert "→ start nats" in result.stdout


def test_a_wrong_setting_is_wrong_usage(used: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(monkeypatch, used.env() | {"LOTUS_LAKE_PATH": f"s3://{used.landing_bucket}/raw/"})
    assert result.exit_code == 2
    assert "overlap" in result.stderr


async def test_ports_where_nobody_answers_are_unreachable(used: Tenant) -> None:
    nobody = settings_of(
        used,
        LOTUS_S3_ENDPOINT="http://127.0.0.1:9",
        LOTUS_CATALOG_PORT="9",
        LOTUS_FILER_GRPC="127.0.0.1:9",
    )
    definitions = load_definitions(nobody)
    for subject, look in {
        "landing": lambda: check_landing(nobody),
        "loader": lambda: check_loader(nobody),
        "filer": lambda: check_filer(nobody),
        "postgresql": lambda: check_postgres(nobody),
        "lake": lambda: check_lake(nobody, definitions),
    }.items():
        finding = await find(subject, look)
        assert finding.status == "unreachable", finding
        assert finding.cure
        assert finding.is_bad


async def test_wrong_passwords_are_wrong_and_the_cure_names_the_settings(used: Tenant) -> None:
    wrong = settings_of(
        used,
        LOTUS_CATALOG_PASSWORD="not-this-one",
        LOTUS_S3_SECRET_ACCESS_KEY="nor-this-one",
        LOTUS_NATS_PASSWORD="nor-that-one",
    )
    definitions = load_definitions(wrong)
    for subject, look, setting in (
        ("nats", lambda: check_nats(wrong), "LOTUS_NATS_"),
        ("landing", lambda: check_landing(wrong), "S3"),
        ("postgresql", lambda: check_postgres(wrong), "LOTUS_CATALOG_"),
        ("lake", lambda: check_lake(wrong, definitions), "LOTUS_CATALOG_"),
    ):
        finding = await find(subject, look)
        assert finding.status == "wrong", finding
        assert finding.cure is not None
        assert setting in finding.cure, finding
        assert "this-one" not in str(finding)
        assert "that-one" not in str(finding)


async def test_a_loader_that_may_delete_is_wrong_unless_it_is_accepted(used: Tenant, stack: Stack) -> None:
    for identity in (used.janitor, stack.admin):
        settings = as_loader(used, identity)
        finding = await find("loader", lambda settings=settings: check_loader(settings))
        assert finding.status == "wrong"
        assert "s3:DeleteObject" in str(finding.cure)
    accepted = settings.model_copy(update={"loader_may_delete": True})
    assert (await find("loader", lambda: check_loader(accepted))).status == "note"
    assert (await find("loader", lambda: check_loader(settings_of(used)))).status == "ok"


async def test_missing_buckets_are_named(used: Tenant, stack: Stack) -> None:
    elsewhere = replace(used, landing_bucket="no-landing-here", lake_path="s3://no-lake-here/data/")
    # Who may not list all buckets can't tell a missing one from a forbidden one; both are for a person to mend.
    for settings in (settings_of(elsewhere), as_loader(elsewhere, stack.admin)):
        landing = await find("landing", lambda settings=settings: check_landing(settings))
        lake = await find("loader", lambda settings=settings: check_loader(settings))
        assert (landing.status, lake.status) == ("wrong", "wrong")
        assert landing.cure
        assert lake.cure
    assert "no-landing-here" in landing.found
    assert "no-lake-here" in lake.found


async def test_an_empty_lake_and_no_tail_are_worth_a_note(tenant: Tenant) -> None:
    settings = settings_of(tenant, LOTUS_FILER_GRPC="")
    lake = await find("lake", lambda: check_lake(settings, load_definitions(settings)))
    assert lake.status == "note"
    assert "ddl apply" in lake.found
    assert (await find("filer", lambda: check_filer(settings))).status == "note"
    assert not lake.is_bad


def test_a_project_that_is_wrong_ends_the_checks(used: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(monkeypatch, used.env() | {"LOTUS_PROJECT_DIR": "/nowhere"}, "--json")
    assert result.exit_code == 3
    [finding] = json.loads(result.stdout)
    assert (finding["subject"], finding["status"]) == ("project", "wrong")
    assert "/nowhere" in finding["found"]
