"""The queue (design D9): what of the server the broker relies on, asked of the server itself.

tests/integration/test_broker.py has the broker's own side of it.
"""

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, BadRequestError

from consumer.broker.config import BrokerConfig, keys_stream
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from tests.helpers import wait_until_async

STORE_FAILED = 10077


@pytest.fixture
async def client(tenant: Tenant) -> AsyncIterator[Client]:
    client = await nats.connect(
        tenant.endpoints.nats_url,
        user=tenant.nats_user,
        password=tenant.nats_password,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.2,
    )
    yield client
    await client.close()


def _config(tenant: Tenant, **changes: object) -> api.StreamConfig:
    spec = keys_stream(BrokerConfig(url=tenant.endpoints.nats_url, namespace=tenant.namespace))
    config = api.StreamConfig(
        name=spec.name,
        subjects=list(spec.subjects),
        retention=api.RetentionPolicy(spec.retention),
        discard=api.DiscardPolicy(spec.discard),
        discard_new_per_subject=spec.discard_new_per_subject,
        max_msgs_per_subject=spec.max_msgs_per_subject,
        max_bytes=1024 * 1024,
    )
    return config.evolve(**changes)


async def _subscribe(js: JetStreamContext, tenant: Tenant) -> JetStreamContext.PullSubscription:
    subject = f"{tenant.namespace}.keys.shopify.orders.*"
    return await js.pull_subscribe(subject, durable="orders", config=api.ConsumerConfig(ack_wait=1))


async def _publish(js: JetStreamContext, tenant: Tenant, identity: str) -> str:
    """Publishes a key event; returns `stored`, or the server's reason against it."""
    try:
        await js.publish(f"{tenant.namespace}.keys.shopify.orders.{identity}", b"{}")
    except APIError as error:
        if error.err_code != STORE_FAILED:
            raise
        return error.description or ""
    return "stored"


async def test_a_repeat_is_refused_through_restart_and_redelivery_and_taken_after_the_ack(
    stack: Stack, tenant: Tenant, client: Client
) -> None:
    js = client.jetstream()
    await js.add_stream(_config(tenant))
    orders = await _subscribe(js, tenant)
    refused = "maximum messages per subject exceeded"
    assert await _publish(js, tenant, "a") == "stored"
    assert await _publish(js, tenant, "a") == refused
    [message] = await orders.fetch(1, timeout=5)
    assert await _publish(js, tenant, "a") == refused

    # The refusal is of the stored message and not of a memory of it: it survives the server.
    await asyncio.to_thread(stack.nats.kill)
    await asyncio.to_thread(stack.nats.start)

    async def connected() -> bool:
        return client.is_connected

    await wait_until_async(connected, timeout_s=30, what="the client is back")
    assert await _publish(js, tenant, "a") == refused
    [message] = await orders.fetch(1, timeout=10)
    assert message.metadata.num_delivered > 1
    assert await _publish(js, tenant, "a") == refused
    await message.ack_sync()
    assert await _publish(js, tenant, "a") == "stored"


async def test_a_full_queue_is_told_from_a_repeat_by_its_text(tenant: Tenant, client: Client) -> None:
    """Both have the same error code."""
    js = client.jetstream()
    await js.add_stream(_config(tenant, max_msgs=2))
    assert [await _publish(js, tenant, identity) for identity in ("a", "a", "b", "c")] == [
        "stored",
        "maximum messages per subject exceeded",
        "stored",
        "maximum messages exceeded",
    ]


async def test_without_discard_new_per_subject_a_repeat_replaces_what_is_in_flight(
    tenant: Tenant, client: Client
) -> None:
    """Why the limit alone does not do: the old message goes, and with it the claim on it."""
    js = client.jetstream()
    await js.add_stream(_config(tenant, discard=api.DiscardPolicy.OLD, discard_new_per_subject=False))
    orders = await _subscribe(js, tenant)
    assert await _publish(js, tenant, "a") == "stored"
    [first] = await orders.fetch(1, timeout=5)
    assert await _publish(js, tenant, "a") == "stored"
    [second] = await orders.fetch(1, timeout=5)
    assert (first.metadata.sequence.stream, second.metadata.sequence.stream) == (1, 2)


async def test_two_subscriptions_that_overlap_are_refused_on_a_work_queue(
    tenant: Tenant, client: Client
) -> None:
    js = client.jetstream()
    await js.add_stream(_config(tenant))
    await _subscribe(js, tenant)
    with pytest.raises(BadRequestError, match="filtered consumer not unique"):
        await js.pull_subscribe(f"{tenant.namespace}.keys.>", durable="all")
