"""Dead letters: listed, shown, replayed and dropped, over NATS and by the command; resolved when their object goes."""

import asyncio
import base64
from collections.abc import Mapping

import pytest
from typer.testing import CliRunner

from consumer.cli import app
from consumer.embedded.identity import Tenant
from tests.asking import Document, command, command_json, connect, request
from tests.service import RunningService, delete_all, order_key, orders, running_service

EMPTY, DAMAGED, GONE = (order_key(name) for name in ("empty", "damaged", "gone"))
NOBODYS = "raw/nobody/\x1b[31m x.parquet"
NO_EVENT = b"\x00\xff no key event"
OPEN = "SELECT key, reason FROM meta.feeder_failures WHERE resolved_at IS NULL ORDER BY ALL"


def test_dead_letters_from_first_to_last(tenant: Tenant) -> None:
    with running_service(tenant) as service:
        with service.expecting(poison=3, unrouted=1, undecodable=1):
            service.put(EMPTY, b"")
            service.put(DAMAGED, b"PAR1 and no more PAR1")
            service.put(GONE, b"no Parquet at all")
            service.put(NOBODYS, orders(1))
            asyncio.run(publish_no_event(tenant))
        they_are_listed(tenant)
        one_is_shown_whole(tenant)
        one_is_dropped(tenant, service)
        one_is_replayed(tenant, service)
        those_whose_object_goes_are_resolved(tenant, service)


async def publish_no_event(tenant: Tenant) -> None:
    client = await connect(tenant)
    try:
        await client.publish(f"{tenant.namespace}.keys.shopify.orders.{'0' * 32}", NO_EVENT)
        await client.flush()
    finally:
        await client.close()


def they_are_listed(tenant: Tenant) -> None:
    def keys(**document: object) -> list[str | None]:
        answer = about(tenant, document)
        assert not answer["truncated"]
        return sorted((letter["key"] for letter in answer["letters"]), key=str)

    assert keys() == sorted([None, EMPTY, DAMAGED, GONE, NOBODYS], key=str)
    assert keys(dead="empty_file") == [EMPTY]
    assert keys(source="shopify", stream="orders") == sorted([None, EMPTY, DAMAGED, GONE], key=str)
    assert keys(prefix=order_key("").removesuffix("y=04/.parquet")) == [DAMAGED, EMPTY, GONE]
    assert keys(key=GONE) == [GONE]
    assert keys(key=GONE, dead="empty_file") == []
    few = about(tenant, {"limit": 2})
    assert (len(few["letters"]), few["truncated"]) == (2, True)
    counted = about(tenant, {"op": "summary"})
    assert counted["letters"] == 5
    assert {(each["reason"], each["source"], each["letters"]) for each in counted["counts"]} >= {
        ("empty_file", "shopify", 1),
        ("unrouted", None, 1),
        ("undecodable", "shopify", 1),
    }

    listed = command(tenant, "dead", "ls", "--source", "shopify", "--stream", "orders")
    assert listed.exit_code == 0, listed.output
    assert f"shopify.orders empty_file {EMPTY}" in listed.output
    assert len([line for line in listed.output.splitlines() if " shopify.orders " in line]) == 4
    hostile = command(tenant, "dead", "ls", "--dead", "unrouted").output
    assert r"\x1b[31m" in hostile
    assert "\x1b" not in hostile, "a key's text must not reach the terminal as it is"
    assert command_json(tenant, "dead", "ls", "--summary")["letters"] == 5


def about(tenant: Tenant, document: Mapping[str, object]) -> Document:
    answer, headers = request(tenant, document, service="dead")
    assert "Nats-Service-Error" not in headers, answer
    return answer


def one_is_shown_whole(tenant: Tenant) -> None:
    [letter] = about(tenant, {"op": "show", "dead": "undecodable"})["letters"]
    assert base64.b64decode(letter["payload_base64"]) == NO_EVENT
    assert letter["detail"]["subject"].endswith("0" * 32)
    shown = command(tenant, "dead", "show", EMPTY)
    assert shown.exit_code == 0, shown.output
    lines = dict(line.split(maxsplit=1) for line in shown.output.splitlines() if line)
    assert lines["reason"] == "empty_file"
    assert lines["attempts"] == "1"
    assert "0 bytes" in lines["error"]
    assert lines["failed_at"].startswith("20")
    [document] = command_json(tenant, "dead", "show", "--dead", "undecodable")
    assert base64.b64decode(document["payload_base64"]) == NO_EVENT
    assert command(tenant, "dead", "show", "raw/none").exit_code == 1


def one_is_dropped(tenant: Tenant, service: RunningService) -> None:
    refused, headers = request(tenant, {"op": "drop", "dead": "empty_file"}, service="dead")
    assert headers["Nats-Service-Error-Code"] == "400"
    assert "reason: missing" in refused["error"]["message"]
    assert command(tenant, "dead", "drop", "--dead", "empty_file").exit_code == 2, "--reason is needed"
    assert command(tenant, "dead", "drop", "--reason", "all of them").exit_code == 2, "which?"
    dropping = ("dead", "drop", "--dead", "empty_file", "--reason", "a test of Airbyte's", "--by", "ann")
    dry = command(tenant, *dropping, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "1 dead letters would be dropped" in dry.output.splitlines()
    assert len(service.rows(OPEN)) == 5
    done = command(tenant, *dropping)
    assert done.exit_code == 0, done.output
    assert "1 dead letters dropped" in done.output.splitlines()
    assert service.rows(
        "SELECT resolution FROM meta.feeder_failures WHERE key = ? AND resolved_at IS NOT NULL", EMPTY
    ) == [("dropped by ann: a test of Airbyte's",)]
    assert command(tenant, *dropping).exit_code == 1, "there is none any more"
    assert (
        f"{EMPTY} [dropped by ann: a test of Airbyte's]"
        in command(tenant, "dead", "ls", EMPTY, "--all").output
    )
    # It was given up for good, and the others are dead: no sweep finds any of them again.
    swept = command_json(tenant, "sweep")
    assert (swept["listed"], swept["published"]) == (4, 0)


def one_is_replayed(tenant: Tenant, service: RunningService) -> None:
    with service.expecting(poison=1):
        again = command(tenant, "dead", "replay", "--dead", "corrupt", "--reason", "is it still?")
    assert again.exit_code == 1, "it is as damaged as it was"
    assert "corrupt" in again.output
    assert len(service.rows(OPEN)) == 4, "a later letter takes the place of the one before"
    with service.expecting(loaded=1):
        service.put(DAMAGED, orders(1, 2))
    assert (DAMAGED, "corrupt") not in service.rows(OPEN)
    assert ("loaded",) in service.rows("SELECT resolution FROM meta.feeder_failures WHERE key = ?", DAMAGED)
    assert command(tenant, "dead", "replay", "--dead", "corrupt").exit_code == 1, "there is none any more"


def those_whose_object_goes_are_resolved(tenant: Tenant, service: RunningService) -> None:
    with service.expecting(kept=1, absent=1):
        delete_all(tenant, [GONE, NOBODYS])
    assert service.rows(OPEN) == [(None, "undecodable")]
    assert service.rows(
        "SELECT key, resolution FROM meta.feeder_failures WHERE key IN (?, ?) ORDER BY key", GONE, NOBODYS
    ) == [(NOBODYS, "removed"), (GONE, "removed")]


@pytest.mark.parametrize("arguments", [("--source", "shopify"), ("--limit", "0")])
def test_wrong_options(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ["dead", "ls", *arguments]).exit_code == 2
