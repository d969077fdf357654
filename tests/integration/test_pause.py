"""Paused streams: their keys wait in the queue over restarts and a NATS that lost everything; others go on."""

import asyncio
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from consumer.cli import app
from consumer.embedded.identity import Tenant
from feeders.pauses import read_pauses
from tests.asking import Document, command, command_json, connect, request, wait_until_done
from tests.helpers import wait_until
from tests.service import ORDERS, RunningService, keys_in_queue, order_key, orders, parquet, running_service

SCHEMAS: Document = json.loads((Path(__file__).parents[2] / "docs" / "pause.schema.json").read_text())[
    "$defs"
]
NAMED = {"source": "shopify", "stream": "orders"}
CUSTOMERS = "raw/shopify/customers/year=2026/month=07/day=04/{}.parquet"
LEDGER = "SELECT key, action FROM meta.feeder_files WHERE stream = 'orders' ORDER BY key, action"
OLD, WAITING = order_key("a"), [order_key(name) for name in "bcd"]


@pytest.mark.timeout(300)
def test_a_paused_stream_waits_in_the_queue_and_the_others_go_on(tenant: Tenant) -> None:
    with running_service(tenant) as service:
        with service.expecting(loaded=1):
            service.put(OLD, orders(1))
        assert gauge(service) == 0
        it_is_paused_once(tenant)
        they_wait_while_others_load(tenant, service)
        wrong_requests_are_refused(tenant)
    asyncio.run(lose_nats(tenant))
    with running_service(tenant) as service:
        assert gauge(service) == 1
        wait_until(lambda: keys_in_queue(tenant) == 3, timeout_s=60, what="a sweep to bring the keys again")
        a_replay_goes_on(tenant, service)
        assert service.rows(LEDGER) == [(OLD, "loaded"), (OLD, "replayed")]
        assert keys_in_queue(tenant) == 3
        with service.expecting(loaded=3):
            assert told(command(tenant, "resume", "shopify.orders").stdout) == "shopify.orders goes on"
        assert gauge(service) == 0
        assert {key for key, _ in service.rows(LEDGER)} == {OLD, *WAITING}
        assert told(command(tenant, "resume", "shopify.orders").stdout) == "shopify.orders was not paused"
        assert command_json(tenant, "pause", "--list") == []
        assert service.lake.query("SELECT count(*) FROM staging.stg_shopify__orders") == [(4,)]


def it_is_paused_once(tenant: Tenant) -> None:
    done = command(tenant, "pause", "shopify.orders", "--reason", "table is being mended", "--by", "ann")
    assert done.exit_code == 0, done.output
    assert "shopify.orders is paused since 20" in done.output
    again = command(tenant, "pause", "shopify.orders", "--reason", "another", "--by", "bob")
    assert again.exit_code == 0, again.output
    assert "shopify.orders was paused already: since 20" in again.output
    assert "by ann: table is being mended" in again.output
    [listed] = command_json(tenant, "pause", "--list")
    answer, _ = request(tenant, {}, service="pause")
    Draft202012Validator(SCHEMAS["answer"]).validate(answer)
    assert (answer["changed"], answer["paused"]) == (False, [listed])
    assert (listed["by"], listed["reason"]) == ("ann", "table is being mended")


def they_wait_while_others_load(tenant: Tenant, service: RunningService) -> None:
    with service.expecting(loaded=2):
        for number, key in enumerate(WAITING):
            service.put(key, orders(number + 2))
        for name in "ab":
            service.put(CUSTOMERS.format(name), parquet([{"id": 1}]))
    wait_until(lambda: keys_in_queue(tenant) == 3, timeout_s=60, what="three keys to wait")
    assert service.rows(LEDGER) == [(OLD, "loaded")]
    assert gauge(service) == 1
    [pause] = read_pauses(service.lake)
    assert (pause.stream, pause.by) == (ORDERS, "ann")


def a_replay_goes_on(tenant: Tenant, service: RunningService) -> None:
    with service.expecting(replayed=1):
        answer, _ = request(tenant, {"key": OLD})
        assert wait_until_done(tenant, answer)["outcomes"] == {"replayed": 1}


def wrong_requests_are_refused(tenant: Tenant) -> None:
    wrong: tuple[tuple[str, Document, str], ...] = (
        ("pause", {"source": "shopify"}, "400"),
        ("pause", {"reason": "all"}, "400"),
        ("pause", {**NAMED, "by": "a\nb"}, "400"),
        ("pause", {**NAMED, "for": "ever"}, "400"),
        ("pause", {"source": "shopify", "stream": "none"}, "404"),
        ("resume", {}, "400"),
        ("resume", {"source": "shopify", "stream": "none"}, "404"),
    )
    for service, document, code in wrong:
        answer, headers = request(tenant, document, service=service)
        assert headers.get("Nats-Service-Error-Code") == code, (document, answer)
        assert answer["error"]["hint"]
    assert command(tenant, "pause", "shopify.none").exit_code == 2


async def lose_nats(tenant: Tenant) -> None:
    """Deletes all that the tenant has in NATS: the queue, and the KV buckets."""
    client = await connect(tenant)
    try:
        js = client.jetstream()
        names = [info.config.name or "" for info in await js.streams_info()]
        ours = [name for name in names if name.removeprefix("KV_").startswith(f"{tenant.namespace}_")]
        assert f"{tenant.namespace}_keys" in ours
        for name in ours:
            await js.delete_stream(name)
    finally:
        await client.close()


def told(output: str) -> str:
    """What a command says among the service's log lines."""
    return next(line for line in output.splitlines() if line.startswith("shopify.orders "))


def gauge(service: RunningService) -> float | None:
    labels = {"source": ORDERS.source, "stream": ORDERS.stream}
    return service.service.metrics.registry.get_sample_value("lotus_lake_stream_paused", labels)


@pytest.mark.parametrize("arguments", [(), ("a.b", "--list"), ("orders",), ("--list", "--by", "ann")])
def test_wrong_options(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ["pause", *arguments]).exit_code == 2
