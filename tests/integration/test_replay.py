"""Replays over NATS on a running service: asked by a client that is not ours, and by the command."""

import asyncio
import json
from collections.abc import Mapping

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from consumer.embedded.identity import Tenant
from tests.helpers import wait_until
from tests.service import RunningService, order_key, orders, running_service

PREFIX = "raw/shopify/orders/year=2026/month=07/day=04/"
COUNTS = "SELECT _source_file, count(*) FROM staging.stg_shopify__orders GROUP BY ALL ORDER BY ALL"
REPLAYED = "SELECT key, requested_by, reason, rows FROM meta.feeder_files WHERE action = 'replayed' ORDER BY loaded_at"


def request(
    tenant: Tenant, document: Mapping[str, object] | bytes, *, service: str = "replay"
) -> tuple[dict[str, object], Mapping[str, str]]:
    """Sends a request as any NATS client would; returns the reply's JSON and headers."""

    async def ask() -> Msg:
        client = await connect(tenant)
        try:
            payload = document if isinstance(document, bytes) else json.dumps(document).encode()
            return await client.request(f"{tenant.namespace}.{service}", payload, timeout=20)
        finally:
            await client.close()

    message = asyncio.run(ask())
    return json.loads(message.data), message.headers or {}


async def connect(tenant: Tenant) -> Client:
    return await nats.connect(tenant.endpoints.nats_url, user=tenant.nats_user, password=tenant.nats_password)


def wait_until_done(tenant: Tenant, answer: Mapping[str, object]) -> dict[str, object]:
    """Waits until a replay has ended; returns its status."""

    def look() -> dict[str, object] | None:
        status, _ = request(tenant, {"id": answer["id"]}, service="replay.status")
        return status if status["state"] not in ("queueing", "queued") else None

    found = wait_until(look, timeout_s=60, what="the replay to be done")
    assert found is not None
    return found


def test_a_key_is_replayed_for_a_client_that_is_not_ours(tenant: Tenant) -> None:
    with running_service(tenant) as service:
        with service.expecting(loaded=2):
            service.put(order_key("a"), orders(1, 2, 3))
            service.put(order_key("b"), orders(4))
        lose_rows(service, order_key("a"))

        answer, headers = request(tenant, b'{"key": "%s"}' % order_key("a").encode())
        assert "Nats-Service-Error" not in headers
        assert {name: answer[name] for name in ("schema", "keys", "names", "truncated")} == {
            "schema": "lotus-lake.replay/1",
            "keys": 1,
            "names": [order_key("a")],
            "truncated": False,
        }
        assert (answer["rows_in_staging"], answer["rows_in_files"], answer["queued"]) == (0, 3, 1)
        assert wait_until_done(tenant, answer)["outcomes"] == {"replayed": 1}

        assert service.rows(COUNTS) == [(order_key("a"), 3), (order_key("b"), 1)]
        assert service.rows(REPLAYED) == [(order_key("a"), "unknown (NATS)", "none given", 3)]
        # It flows down to the models.
        service.wait_for_rows("SELECT count(*) FROM main.int_shopify__orders", [(4,)])

        # A second one changes nothing but the ledger; it says who and why.
        again = {"key": order_key("a"), "by": "ann", "reason": "to be sure"}
        answer, _ = request(tenant, again)
        assert (answer["rows_in_staging"], answer["rows_in_files"]) == (3, 3)
        assert wait_until_done(tenant, answer)["state"] == "done"
        assert service.rows(COUNTS) == [(order_key("a"), 3), (order_key("b"), 1)]
        assert service.rows(REPLAYED)[1:] == [(order_key("a"), "ann", "to be sure", 3)]


def lose_rows(service: RunningService, key: str) -> None:
    """Takes an object's rows out of staging behind the ledger's back."""
    with service.lake.transaction("a test") as transaction:
        transaction.change("DELETE FROM staging.stg_shopify__orders WHERE _source_file = ?", (key,))
