"""Whoever follows the lake hears of each stream once its models have what was committed, at least once."""

import asyncio
import json
from typing import TypedDict, cast

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing
from tests.asking import connect
from tests.helpers import wait_until
from tests.service import put_all, running_service

STREAMS = 9


class Announced(TypedDict):
    """A message of the feed."""

    schema: str
    source: str
    stream: str
    staging_snapshot: int
    model_snapshot: int
    models: dict[str, dict[str, int | str]]
    held_back: list[str]


def fetch(tenant: Tenant) -> list[Announced]:
    """What a durable subscriber gets next, of any client of NATS."""

    async def ask() -> list[Announced]:
        client = await connect(tenant)
        try:
            js = client.jetstream()
            feed = await js.pull_subscribe(f"{tenant.namespace}.commits.>", durable="follower")
            messages = await feed.fetch(100, timeout=1)
            for message in messages:
                await message.ack_sync()
            for message in messages:
                got = cast("Announced", json.loads(message.data))
                assert message.subject == f"{tenant.namespace}.commits.{got['source']}.{got['stream']}"
            return [cast("Announced", json.loads(message.data)) for message in messages]
        except TimeoutError:
            return []
        finally:
            await client.close()

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> Tenant:
    return stack.tenant("commitsfeed")


def test_a_subscriber_hears_of_each_stream_and_again_after_a_restart(tenant: Tenant) -> None:
    heard: list[Announced] = []

    def heard_of_all() -> bool:
        heard.extend(fetch(tenant))
        return len({(each["source"], each["stream"]) for each in heard if each["models"]}) == STREAMS

    landing = Landing(seed=31, files=STREAMS, rows=(5, 20))
    by_changed_keys = {"LOTUS_TRANSFORM_REBUILD_ROWS": "0"}
    with running_service(tenant, **by_changed_keys) as service:
        put_all(tenant, {file.key: file.body for file in landing})
        service.wait_for_outcomes(loaded=STREAMS)
        wait_until(heard_of_all, timeout_s=60, what="an announcement of each stream")
        assert {each["schema"] for each in heard} == {"lotus-lake.commit/1"}
        assert all(each["staging_snapshot"] < each["model_snapshot"] for each in heard if each["models"])
        [orders, *_] = [each for each in heard if each["stream"] == "orders"]
        assert {"int_shopify__orders", "fct_sales"} <= orders["models"].keys()
        assert orders["held_back"] == []
        staging = f"staging.stg_shopify__orders AT (VERSION => {orders['staging_snapshot']})"
        model = f"main.int_shopify__orders AT (VERSION => {orders['model_snapshot']})"
        assert service.rows(f"SELECT count(*) FROM {staging}") == [(landing.rows_expected("shopify.orders"),)]
        assert service.rows(f"SELECT count(*) FROM {model}") == service.rows(
            f"SELECT count(DISTINCT id) FROM {staging}"
        )

    before = max(each["model_snapshot"] for each in heard)
    heard.clear()
    with running_service(tenant, **by_changed_keys):

        def heard_of_all_again() -> bool:
            heard.extend(fetch(tenant))
            return len({(each["source"], each["stream"]) for each in heard}) == STREAMS

        wait_until(heard_of_all_again, timeout_s=60, what="an announcement of each stream again")
        assert all(each["model_snapshot"] >= before for each in heard)
        # The beginning of a term touches one cursor, so that an older term's commit conflicts.
        assert {run["rows"] for each in heard for run in each["models"].values()} <= {0}
