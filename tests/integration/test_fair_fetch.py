"""One puller for all streams, on a real nats-server: in turn, with few questions at once, and none that is in vain."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from consumer import puller
from consumer.broker import Broker, Delivery
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.errors import Unavailable
from consumer.subjects import Queued, subscription_name
from consumer.verdict import Ending
from feeders.pauses import Pause
from feeders.streams import StreamId
from tests.helpers import wait_until_async
from tests.pool import (
    RunningPool,
    broker_config,
    event_of,
    key_of,
    publish,
    queue,
    running_pool,
    stream_ids,
    stream_of,
)
from tests.service import order_key, orders, put, put_all, running_service

MANY = 500


@asynccontextmanager
async def client_of(tenant: Tenant) -> AsyncGenerator[Client]:
    url, user = tenant.endpoints.nats_url, tenant.nats_user
    client = await nats.connect(url, user=user, password=tenant.nats_password)
    try:
        yield client
    finally:
        await client.close()


def hear_nothing(_: puller.Puller, of: Queued, sequence: int) -> None:
    """Stands in for a hint that was lost."""
    del of, sequence


async def claims(running: RunningPool, count: int, *, timeout_s: float = 30) -> None:
    """Waits until so many walks have begun."""

    async def begun() -> bool:
        return len(running.walks.claimed) >= count

    await wait_until_async(begun, timeout_s=timeout_s, what=f"{count} claims")


async def settled(broker: Broker, stream: StreamId, count: int) -> None:
    """Waits until so many keys of a stream wait, and none is claimed."""

    async def all_settled() -> bool:
        return await broker.pending(stream) == (count, 0)

    await wait_until_async(all_settled, timeout_s=30, what=f"{stream} to have {count} keys")


@pytest.mark.parametrize("slots", [10, 40])
async def test_a_backfill_delays_a_new_key_of_another_stream_by_one_batch(tenant: Tenant, slots: int) -> None:
    """Two streams fill all slots; of the slots that a COMMIT frees, the third stream gets one."""
    backfill, other, quiet = stream_ids(3)
    async with (
        queue(broker_config(tenant), [backfill, other, quiet]) as broker,
        queue(broker_config(tenant), []) as feeder,
    ):
        await publish(feeder, backfill, range(400))
        await publish(feeder, other, range(400))
        async with running_pool(broker, [backfill, other, quiet], slots=slots) as running:
            walks = running.walks
            await claims(running, slots)
            assert {stream_of(key) for key in walks.claimed} == {backfill.stream, other.stream}
            await publish(feeder, quiet, [1])
            while key_of(quiet, 1) not in (key for batch in walks.batches for key in batch):
                before = len(walks.claimed)
                batch = walks.commit(slots)
                assert len(walks.batches) <= 2, "the new key is not in the second batch after it came"
                await claims(running, before + len(batch))
            assert walks.claimed.index(key_of(quiet, 1)) < 2 * slots


async def test_one_stream_alone_leaves_slots_for_another_one(tenant: Tenant) -> None:
    backfill, quiet = stream_ids(2)
    async with queue(broker_config(tenant), [backfill, quiet]) as broker:
        await publish(broker, backfill, range(100))
        async with running_pool(broker, [backfill, quiet], slots=16) as running:
            await claims(running, 14)
            await publish(broker, quiet, [1])
            await claims(running, 15)  # nothing was committed
            assert running.walks.claimed[-1] == key_of(quiet, 1)


async def test_streams_with_backlogs_take_turns(tenant: Tenant) -> None:
    streams = stream_ids(8)
    async with queue(broker_config(tenant), streams) as broker:
        for stream in streams:
            await publish(broker, stream, range(30))
        async with running_pool(broker, streams, slots=8) as running:
            walks = running.walks
            await claims(running, 8)
            while len(walks.claimed) < 120:
                before = len(walks.claimed)
                await claims(running, before + len(walks.commit(1)))
            counts = [sum(stream_of(key) == stream.stream for key in walks.claimed) for stream in streams]
            assert max(counts) - min(counts) <= 8, counts


async def test_no_more_than_twenty_questions_are_open_for_five_hundred_streams(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hints of keys that never come let each question stand open on the server, which counts them."""
    monkeypatch.setattr(puller, "EXPECTED_S", 300.0)
    streams = stream_ids(MANY)
    config = broker_config(tenant)
    async with queue(config, streams) as broker, client_of(tenant) as client:
        js, js_stream = client.jetstream(), f"{config.namespace}_keys"

        async def open_questions() -> int:
            pages = [await js.consumers_info(js_stream, offset=offset) for offset in (0, 256)]
            found = [info for page in pages for info in page]
            assert len(found) == MANY + 2
            return sum(info.num_waiting or 0 for info in found)

        async with running_pool(broker, streams) as running:
            turns = running.pool._puller._turns  # pyright: ignore[reportPrivateUsage]

            async def all_are_in_line_or_asked() -> bool:
                return len(turns) + len(turns._asked) == MANY  # pyright: ignore[reportPrivateUsage]

            # Each time anew, until they are listened to.
            async def hint_at_all() -> bool:
                for stream in streams:
                    subject = f"{config.namespace}.hints.{stream.source}.{stream.stream}.x"
                    await client.publish(subject, headers={"Nats-Sequence": "1"})
                await client.flush()
                return await all_are_in_line_or_asked()

            await wait_until_async(hint_at_all, timeout_s=30, what="all streams to be in line")

            async def as_many_as_may_be() -> bool:
                return await open_questions() >= puller.FETCHES_MOST

            await wait_until_async(as_many_as_may_be, what="questions that stand open")
            assert puller.FETCHES_MOST == 20
            assert [await open_questions() for _ in range(5)] == [20] * 5


async def test_idle_streams_are_not_asked_and_a_new_key_of_one_is_claimed_at_once(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller, "LOOK_EVERY_S", 600.0)
    streams = stream_ids(MANY)
    asked: list[Queued] = []
    fetch = Broker.fetch

    async def noted(self: Broker, of: Queued, batch: int, timeout_s: float) -> list[Delivery]:
        asked.append(of)
        return await fetch(self, of, batch, timeout_s)

    monkeypatch.setattr(Broker, "fetch", noted)
    async with queue(broker_config(tenant), streams) as broker, running_pool(broker, streams) as running:
        await publish(broker, streams[0], [0])
        await claims(running, 1)
        for number, stream in enumerate(streams[1:50]):
            await publish(broker, stream, [1])
            await claims(running, number + 2)
        # The first one may have been seen by the first look, and heard of.
        assert [of for of in asked if of != streams[0]] == streams[1:50]
        # Many at once of one stream: no question for each of them.
        await publish(broker, streams[60], range(100))
        await claims(running, 150)
        assert len(asked) < 150


async def test_a_paused_stream_is_not_asked_until_it_is_resumed(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller, "LOOK_EVERY_S", 600.0)
    paused, other = stream_ids(2)
    async with queue(broker_config(tenant), [paused, other]) as broker:
        await publish(broker, paused, range(50))
        async with running_pool(broker, [paused, other], slots=8) as running:
            await claims(running, 7)
            running.pauses.replace([Pause(stream=paused, since=datetime.now(UTC), by="ann", reason="why")])
            running.walks.commit(8)
            await settled(broker, paused, 43)
            await publish(broker, other, range(30))
            for count in range(7, 37):
                await claims(running, count + 1)
                running.walks.commit(1)
            assert {stream_of(key) for key in running.walks.claimed[7:]} == {other.stream}
            assert await broker.pending(paused) == (43, 0)
            await settled(broker, other, 0)  # nothing else lets the puller look for turns
            running.pauses.replace([])
            before = len(running.walks.claimed)
            await claims(running, before + 1)
            assert stream_of(running.walks.claimed[before]) == paused.stream


async def test_a_key_whose_hint_was_lost_is_found_by_a_look(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(puller.Puller, "_heard", hear_nothing)
    streams = stream_ids(300)
    async with queue(broker_config(tenant), streams) as broker, running_pool(broker, streams) as running:
        await publish(broker, streams[299], [1])
        await claims(running, 1)


async def test_subscriptions_whose_server_is_slow_to_answer_are_not_gone(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster: those are named, and their page is a short one. Here the answers are cut down."""
    monkeypatch.setattr(puller, "LOOK_EVERY_S", 0.05)
    streams = stream_ids(300)
    silent = {subscription_name(of) for of in streams[::2]}
    looks = repairs = 0
    ask = Client.request

    async def partly_answered(self: Client, subject: str, *args: Any, **options: Any) -> Msg:
        nonlocal looks
        message = await ask(self, subject, *args, **options)
        if "CONSUMER.LIST" in subject:
            page = json.loads(message.data)
            looks += page["offset"] > 0
            page["missing"] = [each["name"] for each in page["consumers"] if each["name"] in silent]
            page["consumers"] = [each for each in page["consumers"] if each["name"] not in silent]
            message.data = json.dumps(page).encode()
        return message

    async def repair() -> None:
        nonlocal repairs
        repairs += 1

    async with queue(broker_config(tenant), streams) as broker:
        monkeypatch.setattr(Client, "request", partly_answered)
        assert await broker.subscribe(streams[1:]) == (subscription_name(streams[0]),)
        backlog = await broker.backlog(streams)
        assert backlog == {of: None if number % 2 == 0 else (0, 0) for number, of in enumerate(streams)}
        async with running_pool(broker, streams, repair=repair) as running:
            await publish(broker, streams[299], [1])
            await claims(running, 1)
            before = looks

            async def looked_again() -> bool:
                return looks > before + 2

            await wait_until_async(looked_again, what="more looks")
            assert repairs == 0
            assert running.troubles == []


@pytest.mark.parametrize("is_heard_of", [True, False])
async def test_a_subscription_that_was_deleted_is_made_anew_at_once_and_is_no_trouble(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, is_heard_of: bool
) -> None:
    if not is_heard_of:
        monkeypatch.setattr(puller.Puller, "_heard", hear_nothing)
    gone, other = stream_ids(2)
    config = broker_config(tenant)
    async with (
        queue(config, [gone, other]) as broker,
        running_pool(broker, [gone, other]) as running,
        client_of(tenant) as client,
    ):
        await publish(broker, other, [1])
        await claims(running, 1)
        await client.jetstream().delete_consumer(f"{config.namespace}_keys", subscription_name(gone))
        await publish(broker, gone, [1])
        await publish(broker, other, [2])
        await claims(running, 3, timeout_s=4 * puller.LOOK_EVERY_S)
        assert sorted(running.walks.claimed[1:]) == [key_of(gone, 1), key_of(other, 2)]
        assert running.troubles == []


async def test_subscriptions_that_stay_gone_are_made_anew_now_and_then_and_the_looks_go_on(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(puller.Puller, "_heard", hear_nothing)
    gone, other = stream_ids(2)
    repairs = 0

    async def repair() -> None:
        nonlocal repairs
        repairs += 1

    config = broker_config(tenant)
    async with (
        queue(config, [other]) as broker,
        running_pool(broker, [gone, other], repair=repair) as running,
    ):
        for number in range(20):  # each is found by a look of its own
            await publish(broker, other, [number])
            await claims(running, number + 1)
        assert repairs == 1
        assert running.troubles == []


async def test_keys_are_claimed_after_the_server_was_killed(stack: Stack, tenant: Tenant) -> None:
    first, second = stream_ids(2)
    async with (
        queue(broker_config(tenant), [first, second]) as broker,
        running_pool(broker, [first, second]) as running,
    ):
        await publish(broker, first, [1])
        await claims(running, 1)
        await asyncio.to_thread(stack.nats.kill)
        await asyncio.to_thread(stack.nats.start)

        async def connected() -> bool:
            return broker.is_connected

        await wait_until_async(connected, timeout_s=30, what="the connection to be back")
        await publish(broker, second, [1])
        await claims(running, 2)


@pytest.mark.parametrize("how", ["it is refused", "it is cancelled"])
async def test_keys_that_were_claimed_for_a_probe_go_back_when_the_claim_of_more_fails(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    [blocked] = stream_ids(1)
    fetch = Broker.fetch
    fetches, asked_for_more = 0, asyncio.Event()

    async def once(self: Broker, of: Queued, batch: int, timeout_s: float) -> list[Delivery]:
        nonlocal fetches
        fetches += 1
        if fetches == 1:
            return await fetch(self, of, batch, timeout_s)
        asked_for_more.set()
        if how == "it is refused":
            raise Unavailable("nats", "made up")
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    config = broker_config(tenant)
    async with queue(config, [blocked]) as broker, queue(config, [blocked]) as other:
        await publish(broker, blocked, range(30))
        with monkeypatch.context() as patched:
            patched.setattr(Broker, "fetch", once)
            async with running_pool(broker, [blocked], breaker_probe_s=0) as running:
                # All have failed, and since it is blocked: more are asked for.
                for number in [*range(30), *range(30)]:
                    identity = event_of(blocked, number).identity()
                    running.pool.breaker.note(blocked, identity, Ending.POISON, reason="damaged")
                await asyncio.wait_for(asked_for_more.wait(), timeout=30)
            assert running.walks.claimed == []
        found: list[Delivery] = []

        async def all_came_back() -> bool:
            found.extend(await other.fetch(blocked, 64, 0.5))
            return len(found) == 30

        # Not after ack_wait_s.
        assert config.ack_wait_s == 30
        await wait_until_async(all_came_back, timeout_s=10, what="the keys to come back")


def test_idle_streams_leave_slots_to_the_one_that_has_keys(tenant: Tenant) -> None:
    with running_service(tenant, LOTUS_WORKER_SLOTS="12", LOTUS_WORKER_READS="2") as service:
        put(tenant, order_key("first"), orders(1))
        service.wait_for_outcomes(loaded=1)
        put_all(tenant, {order_key(f"more-{number}"): orders(10 + number) for number in range(20)})
        service.wait_for_outcomes(loaded=21)


def test_fewer_slots_than_streams_are_enough(tenant: Tenant) -> None:
    with running_service(tenant, LOTUS_WORKER_SLOTS="1", LOTUS_WORKER_READS="1") as service:
        put(tenant, order_key("first"), orders(1))
        put(tenant, "raw/shopify/customers/2026_07_04_1_1.parquet", orders(2))
        service.wait_for_outcomes(loaded=2)
