"""1 million key events pending in the queue: the server's memory and times. Prints rows for docs/performance.md."""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import nats
import psutil
import pytest
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import APIError

from consumer.broker.config import BrokerConfig, keys_stream
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.events import KeyEvent
from consumer.subjects import key_subject
from feeders.streams import StreamId

pytestmark = pytest.mark.bench
PENDING = 1_000_000
IN_FLIGHT = 2_000
ORDERS = StreamId(source="shopify", stream="orders")


def _events(prefix: str) -> Iterator[KeyEvent]:
    event = KeyEvent(
        event="created",
        bucket="landing",
        key="replaced below",
        etag="cabe45dcc9ae5b66ba86600cca6b8ba8",
        size=1000,
        mtime=1795370112.0,
        found_by="sweep",
        sent_at=datetime(2026, 11, 22, tzinfo=UTC),
    )
    number = 0
    while True:
        yield replace(event, key=f"raw/shopify/orders/year=2026/month=05/day=16/{prefix}{number:08}.parquet")
        number += 1


def _say(what: str, value: str) -> None:
    sys.stdout.write(f"\n| {what} | {value} |")
    sys.stdout.flush()


def _rss_mib(stack: Stack) -> int:
    return psutil.Process(stack.nats.pid).memory_info().rss // 1024**2


async def _connect(tenant: Tenant) -> Client:
    return await nats.connect(tenant.endpoints.nats_url, user=tenant.nats_user, password=tenant.nats_password)


async def _timed(action: Awaitable[object]) -> float:
    started = time.perf_counter()
    await action
    return time.perf_counter() - started


async def _publish_all(client: Client, tenant: Tenant) -> float:
    """Publishes with many acks awaited at once, as a sweep does."""
    js = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    started = time.perf_counter()
    acks: list[asyncio.Future[api.PubAck]] = []
    for number, event in zip(range(PENDING), _events("a"), strict=False):
        subject = key_subject(tenant.namespace, ORDERS, event.identity())
        acks.append(await js.publish_async(subject, event.to_json(), wait_stall=60))
        if number % 50_000 == 49_999:
            await asyncio.gather(*acks)
            acks.clear()
    await js.publish_async_completed()
    return time.perf_counter() - started


async def _latencies_ms(client: Client, tenant: Tenant, prefix: str, *, refused: bool) -> str:
    js = client.jetstream()
    times: list[float] = []
    for _, event in zip(range(500), _events(prefix), strict=False):
        subject, payload = key_subject(tenant.namespace, ORDERS, event.identity()), event.to_json()
        started = time.perf_counter()
        try:
            await js.publish(subject, payload)
        except APIError:
            assert refused
        times.append(1000 * (time.perf_counter() - started))
    return f"{statistics.median(times):.2f}, p99 {statistics.quantiles(times, n=100)[98]:.2f} ms"


async def test_a_million_pending_keys(stack: Stack, tenant: Tenant) -> None:
    spec = keys_stream(BrokerConfig(url=tenant.endpoints.nats_url, namespace=tenant.namespace))
    client = await _connect(tenant)
    js = client.jetstream(timeout=120)
    await js.add_stream(
        name=spec.name,
        subjects=list(spec.subjects),
        retention=api.RetentionPolicy(spec.retention),
        discard=api.DiscardPolicy(spec.discard),
        discard_new_per_subject=spec.discard_new_per_subject,
        max_msgs_per_subject=spec.max_msgs_per_subject,
        max_bytes=spec.max_bytes,
    )
    _say("nats-server's memory, empty queue", f"{_rss_mib(stack)} MiB")
    _say("publish, empty queue, median", await _latencies_ms(client, tenant, "empty", refused=False))
    seconds = await _publish_all(client, tenant)
    _say(f"publish {PENDING:,}, {IN_FLIGHT:,} at once", f"{seconds:.0f} s, {PENDING / seconds:,.0f}/s")
    state = (await js.stream_info(spec.name)).state
    assert state.messages >= PENDING
    _say(
        "js_stream's size on disk",
        f"{state.bytes / 1024**2:.0f} MiB, {state.bytes / state.messages:.0f} bytes a key",
    )
    _say("nats-server's memory, 1,000,000 pending", f"{_rss_mib(stack)} MiB")
    _say("publish, 1,000,000 pending, median", await _latencies_ms(client, tenant, "full", refused=False))
    _say("a refused repeat, median", await _latencies_ms(client, tenant, "full", refused=True))

    subject = f"{tenant.namespace}.keys.shopify.orders.*"
    seconds = await _timed(
        js.add_consumer(spec.name, durable_name="orders", filter_subject=subject, ack_policy="explicit")
    )
    _say("make a subscription", f"{seconds:.2f} s")
    orders = await js.pull_subscribe_bind(consumer="orders", stream=spec.name)
    _say("fetch 200 keys", f"{1000 * await _timed(orders.fetch(200, timeout=30)):.0f} ms")
    _say("count pending", f"{1000 * await _timed(js.consumer_info(spec.name, 'orders')):.1f} ms")
    started = time.perf_counter()
    listed = (await js.stream_info(spec.name, subjects_filter=subject)).state.subjects or {}
    _say(
        "list the first page of pending subjects", f"{len(listed):,} in {time.perf_counter() - started:.2f} s"
    )
    await client.close()

    await asyncio.to_thread(stack.nats.stop)
    started = time.perf_counter()
    await asyncio.to_thread(stack.nats.start)
    _say("restart until it answers, clean stop", f"{time.perf_counter() - started:.1f} s")
    await asyncio.to_thread(stack.nats.kill)
    started = time.perf_counter()
    await asyncio.to_thread(stack.nats.start)
    client = await _connect(tenant)
    found = (await client.jetstream(timeout=120).stream_info(spec.name)).state.messages
    _say("restart after kill -9, until the queue answers", f"{time.perf_counter() - started:.1f} s")
    _say("nats-server's memory after it", f"{_rss_mib(stack)} MiB\n")
    assert found >= PENDING
    await client.close()
