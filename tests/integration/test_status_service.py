"""What a running service shows: one object by HTTP, over NATS and by the command."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from consumer.embedded.stack import Stack
from feeders.project import find_project
from tests.asking import Document, command, request
from tests.helpers import wait_until
from tests.service import RunningService, order_key, orders, put_all, running_service
from tests.status import validator

BROKEN = "int_shopify__orders"
GOOD = order_key("good")
CUSTOMERS = "raw/shopify/customers/2026_07_04_1_{}.parquet"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which one model has a wrong SELECT."""
    folder, found = tmp_path_factory.mktemp("project"), find_project(None)
    shutil.copytree(found.ddl, folder / "ddl")
    shutil.copytree(found.transforms, folder / "transforms")
    path = folder / "transforms" / "processed" / "shopify" / f"{BROKEN}.sql"
    path.write_text(path.read_text().replace("financial_status,", "financial_status_of_long_ago,", 1))
    return folder


@pytest.fixture(scope="module")
def service(stack: Stack, project: Path) -> Iterator[RunningService]:
    """Orders have one dead letter, customers are blocked, and a model fails."""
    tenant = stack.tenant("status-service")
    changes = {"LOTUS_BREAKER_KEYS": "2", "LOTUS_BREAKER_PROBE_S": "60", "LOTUS_PROJECT_DIR": str(project)}
    with running_service(tenant, **changes) as service:
        with service.expecting(loaded=1, poison=1):
            put_all(tenant, {GOOD: orders(1, 2, 3), order_key("bad"): b"no Parquet"})
        put_all(tenant, {CUSTOMERS.format(n): b"no Parquet" for n in range(6)})
        put_all(tenant, {"raw/nobodys/place.parquet": b"no Parquet"})
        wait_until(lambda: is_settled(status_json(service)), timeout_s=60, what="the states of the streams")
        yield service


def is_settled(seen: Document) -> bool:
    return (
        stream_of(seen, "customers")["state"] == "blocked"
        and stream_of(seen, "customers")["pending"] == 4
        and [each["count"] for each in stream_of(seen, "customers")["dead_letters"] or ()] == [2]
        and bool(seen["dead_letters_of_no_stream"])
        and seen["models"] is not None
        and model_of(seen, BROKEN)["error"] is not None
        and stream_of(seen, "orders")["state"] == "dead-lettering"
    )


def status_json(service: RunningService) -> Document:
    """What /status.json says, which is valid."""
    with urlopen(f"http://127.0.0.1:{service.service.http_port}/status.json", timeout=15) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        document = json.load(answer)
    validator().validate(document)
    return document


def stream_of(seen: Document, name: str) -> Document:
    [found] = [each for each in seen["streams"] if (each["source"], each["stream"]) == ("shopify", name)]
    return found


def model_of(seen: Document, name: str) -> Document:
    [found] = [each for each in seen["models"] if each["model"] == name]
    return found


def test_streams_models_and_the_process_are_told(service: RunningService) -> None:
    seen = status_json(service)
    assert seen["missing"] == []
    found = stream_of(seen, "orders")
    assert found["reason"] == "dead letters in the last hour; open: not_parquet 1"
    assert (found["cursor"], found["files_today"], found["rows_today"], found["pending"]) == (GOOD, 1, 3, 0)
    assert found["last_commit_at"] is not None
    assert [(each["reason"], each["count"]) for each in found["dead_letters"]] == [("not_parquet", 1)]

    blocked = stream_of(seen, "customers")
    assert "3 keys in a row ended dead: not_parquet" in blocked["reason"]
    assert blocked["oldest_pending_at"] is not None
    assert (blocked["files_today"], blocked["last_commit_at"]) == (0, None)
    assert stream_of(seen, "order_refunds")["state"] == "running"
    assert [each["count"] for each in seen["dead_letters_of_no_stream"]] == [1]

    failing = model_of(seen, BROKEN)
    assert "financial_status_of_long_ago" in failing["error"]
    assert not failing["is_current"]
    assert failing["error_since"] is not None
    assert not model_of(seen, "fct_sales")["is_current"], "what it reads is held back"
    assert model_of(seen, "int_shopify__order_refunds")["is_current"]

    process = seen["process"]
    assert (process["role"], process["not_ready"]) == ("writer", None)
    assert process["started_at"] < process["writer_since"] < seen["at"]
    assert seen["writer"]["instance"].startswith(process["instance"])


def test_nats_and_the_command_show_the_same(service: RunningService) -> None:
    by_nats, _ = request(service.tenant, b"", service="status")
    done = command(service.tenant, "status", "--json")
    assert done.exit_code == 0
    [line] = [each for each in done.stdout.splitlines() if each.startswith("{")]
    by_command = json.loads(line)
    validator().validate(by_nats)
    for each in (by_nats, by_command):
        shown = {part: each[part] for part in ("process", "streams", "models", "missing")}
        by_http = status_json(service)
        assert shown == {part: by_http[part] for part in shown}
    refused, headers = request(service.tenant, {"verbose": True}, service="status")
    assert refused["error"]["code"] == 400
    assert "unknown field" in str(headers)


def test_the_command_shows_it_to_people(service: RunningService) -> None:
    done = command(service.tenant, "status")
    assert done.exit_code == 0
    assert "shopify.customers" in done.stdout
    assert "blocked: 3 keys in a row ended dead: not_parquet" in done.stdout
    assert "held back: " in done.stdout
    assert "service          0.1.0, writer for" in done.stdout


def test_the_page_is_locked_up(service: RunningService) -> None:
    with urlopen(f"http://127.0.0.1:{service.service.http_port}/", timeout=15) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers.get_content_type() == "text/html"
        assert b"lotus-lake" in answer.read()
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_a_catalog_that_hangs_does_not_hold_up_the_answer(service: RunningService, stack: Stack) -> None:
    kept = status_json(service)
    assert kept["missing"] == []
    stack.postgres.pause()
    try:
        seen = wait_until(
            lambda: lacking(status_json(service)), timeout_s=60, what="an answer without the catalog"
        )
    finally:
        stack.postgres.resume()
    assert seen is not None
    assert seen["tables"] is None
    assert seen["models"] is None
    assert stream_of(seen, "orders")["cursor"] is None


def lacking(seen: Document) -> Document | None:
    """The object, if both parts of PostgreSQL's are missing."""
    parts = {each["part"]: each["reason"] for each in seen["missing"]}
    return seen if {"catalog", "lake"} <= parts.keys() else None
