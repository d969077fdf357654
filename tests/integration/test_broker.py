"""The broker on a real nats-server: what the queue refuses, keeps and gives back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import api

from consumer.broker import Broker, BrokerConfig, Delivery
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.errors import BrokerMisconfigured, Unavailable
from consumer.events import KeyEvent
from consumer.subjects import Queued, key_subject, parse_key_subject
from consumer.tasks import end
from feeders.streams import StreamId
from tests.helpers import wait_until_async

ORDERS = StreamId(source="shopify", stream="orders")
KEYS_OF_ORDERS = "keys==shopify==orders"
ODD = StreamId(source="a.b c", stream="é>*")
MIB = 1024 * 1024


@pytest.fixture
def config(stack: Stack, tenant: Tenant) -> BrokerConfig:
    return BrokerConfig(
        url=stack.endpoints.nats_url,
        user=tenant.nats_user,
        password=tenant.nats_password,
        namespace=tenant.namespace,
        ack_wait_s=2,
        request_timeout_s=2,
        keys_max_bytes=64 * MIB,
    )


@asynccontextmanager
async def _connected(config: BrokerConfig) -> AsyncGenerator[Broker]:
    broker = await Broker.connect(config)
    try:
        yield broker
    finally:
        await broker.close()


@pytest.fixture
async def broker(config: BrokerConfig) -> AsyncIterator[Broker]:
    async with _connected(config) as broker:
        assert await broker.ensure()
        assert await broker.subscribe([ORDERS, ODD]) == ()
        yield broker


def _event(number: int = 0) -> KeyEvent:
    return KeyEvent(
        event="created",
        bucket="landing",
        key=f"raw/shopify/orders/{number:05}.parquet",
        etag="cabe45dcc9ae5b66ba86600cca6b8ba8",
        size=1000,
        mtime=1795370112.0,
        found_by="filer_tail",
        sent_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


async def _one(broker: Broker, stream_id: StreamId | None = ORDERS) -> Delivery:
    [delivery] = await broker.fetch(stream_id, 1, 5)
    return delivery


async def _again(step: Callable[[], Awaitable[object]], what: str) -> None:
    """Repeat a step until the server is back."""

    async def works() -> bool:
        try:
            await step()
        except Unavailable:
            return False
        return True

    await wait_until_async(works, timeout_s=30, what=what)


async def test_a_delivery_tells_where_it_comes_from(broker: Broker) -> None:
    before = datetime.now(UTC)
    assert await broker.publish_key(_event(), ORDERS)
    delivery = await _one(broker)
    assert KeyEvent.from_json(delivery.payload) == _event()
    assert parse_key_subject(broker.config.namespace, delivery.subject) == (ORDERS, _event().identity())
    assert (delivery.num_delivered, delivery.sequence) == (1, 1)
    assert abs((delivery.published_at - before).total_seconds()) < 5
    await delivery.done()
    assert await broker.pending(ORDERS) == (0, 0)


async def test_a_version_is_refused_while_pending_and_in_flight_and_taken_after_its_ack(
    broker: Broker,
) -> None:
    assert await broker.publish_key(_event(), ORDERS)
    assert not await broker.publish_key(replace(_event(), found_by="sweep"), ORDERS)
    assert await broker.publish_key(_event(1), ORDERS)
    assert await broker.pending(ORDERS) == (2, 0)
    first, second = await broker.fetch(ORDERS, 10, 5)
    assert not await broker.publish_key(_event(), ORDERS)
    # Its removal is another matter, and must not be lost while the creation is in flight.
    assert await broker.publish_key(replace(_event(), event="removed"), ORDERS)
    assert await broker.pending(ORDERS) == (1, 2)
    await first.done()
    assert await broker.publish_key(_event(), ORDERS)
    await second.dead()
    assert await broker.publish_key(_event(1), ORDERS)
    assert await broker.pending(ORDERS) == (3, 0)


async def test_streams_have_queues_of_their_own(broker: Broker) -> None:
    for stream_id in (ORDERS, ODD, None):
        assert await broker.publish_key(_event(), stream_id)
    for stream_id in (ORDERS, ODD, None):
        delivery = await _one(broker, stream_id)
        assert parse_key_subject(broker.config.namespace, delivery.subject)[0] == stream_id
        await delivery.done()
    assert await broker.fetch(None, 5, 0.2) == []
    assert await broker.fetch(ODD, 1, 0.2) == []


async def test_a_key_comes_back_later_but_not_before(broker: Broker) -> None:
    await broker.publish_key(_event(), ORDERS)
    delivery = await _one(broker)
    given_back = asyncio.get_running_loop().time()
    await delivery.later(1.0)
    again = await _one(broker)
    assert 0.8 < asyncio.get_running_loop().time() - given_back < 5
    assert (again.num_delivered, again.sequence) == (2, delivery.sequence)
    await again.later(0)
    assert (await _one(broker)).num_delivered == 3


async def test_a_claim_lasts_while_it_is_renewed(broker: Broker) -> None:
    await broker.publish_key(_event(), ORDERS)
    delivery = await _one(broker)
    for _ in range(6):
        await delivery.working()
        assert await broker.fetch(ORDERS, 1, 0.5) == []
    await delivery.done()
    assert await broker.fetch(ORDERS, 1, 2.5) == []


async def test_a_claim_without_a_sign_of_life_comes_back(broker: Broker) -> None:
    await broker.publish_key(_event(), ORDERS)
    first = await _one(broker)
    second = await _one(broker)
    assert (first.num_delivered, second.num_delivered) == (1, 2)
    await second.done()
    assert await broker.pending(ORDERS) == (0, 0)


async def test_a_waiting_fetch_gets_each_key_at_once(broker: Broker) -> None:
    """nats-py's own fetch stands still here for its whole timeout, once in some hundred turns."""
    clock = asyncio.get_running_loop().time
    slowest_s = 0.0
    for number in range(400):
        waiting = asyncio.create_task(broker.fetch(ORDERS, 10, 10))
        await asyncio.sleep(0.005 if number % 2 else 0)
        published = clock()
        await broker.publish_key(_event(number), ORDERS)
        [delivery] = await waiting
        slowest_s = max(slowest_s, clock() - published)
        await delivery.done()
    assert slowest_s < 2


async def test_a_cancelled_fetch_loses_nothing(config: BrokerConfig) -> None:
    async with _connected(replace(config, ack_wait_s=60)) as broker:
        await broker.ensure()
        await broker.subscribe([ORDERS])
        waiting = asyncio.create_task(broker.fetch(ORDERS, 5, 10))

        async def asked() -> bool:
            pulls = broker._pulls.items()  # pyright: ignore[reportPrivateUsage]
            [*requests] = [each._requests for name, each in pulls if name.endswith(".keys==shopify==orders")]  # pyright: ignore[reportPrivateUsage]
            return requests == [2]

        await wait_until_async(asked, what="the fetch waits for a message")
        waiting.cancel()
        await broker.publish_key(_event(), ORDERS)  # the server still has the request
        assert KeyEvent.from_json((await _one(broker)).payload) == _event()


async def test_no_request_stays_open_however_many_keys_are_claimed(config: BrokerConfig) -> None:
    """At a limit of the server's it would, and claim keys later, when nobody asks for them any more."""
    async with _connected(replace(config, ack_wait_s=60)) as broker:
        await broker.ensure()
        await _subscribe_as_before(config, max_ack_pending=3)
        await broker.subscribe([ORDERS])
        for number in range(7):
            await broker.publish_key(_event(number), ORDERS)
        held = await broker.fetch(ORDERS, 5, 0.5)
        assert len(held) == 5
        for delivery in held:
            await delivery.later(60)  # given back for a while, and counted as claimed
        assert len(await broker.fetch(ORDERS, 1, 0.2)) == 1
        assert await broker.pending(ORDERS) == (1, 6)
        assert len(await broker.fetch(ORDERS, 5, 0.2)) == 1
        assert await broker.fetch(ORDERS, 5, 0) == []
        client = await _client(config)
        try:
            info = await client.jetstream().consumer_info(f"{config.namespace}_keys", KEYS_OF_ORDERS)
        finally:
            await client.close()
        assert info.num_waiting == 0
        assert info.config.max_ack_pending == -1


async def _subscribe_as_before(config: BrokerConfig, *, max_ack_pending: int) -> None:
    """Makes the subscription of ORDERS with a limit of open claims, as earlier builds did."""
    client = await _client(config)
    try:
        await client.jetstream().add_consumer(
            f"{config.namespace}_keys",
            api.ConsumerConfig(
                durable_name=KEYS_OF_ORDERS,
                filter_subject=f"{config.namespace}.keys.shopify.orders.*",
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=60,
                max_deliver=-1,
                max_ack_pending=max_ack_pending,
            ),
        )
    finally:
        await client.close()


async def test_hints_are_heard_once_after_asking_for_them_has_failed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[Queued, int]] = []
    listening = asyncio.Event()

    async def listen() -> None:
        await broker.listen([ORDERS], heard=lambda of, at: heard.append((of, at)), listening=listening.set)

    async def in_vain(_: Client, timeout: int = 10) -> None:  # noqa: ASYNC109 - as nats-py's
        raise nats.errors.TimeoutError(timeout)

    with monkeypatch.context() as patched:
        patched.setattr(Client, "flush", in_vain)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await listen()
    task = asyncio.create_task(listen())
    try:
        await asyncio.wait_for(listening.wait(), timeout=10)
        for number in range(2):
            await broker.publish_key(_event(number), ORDERS)

        async def both_are_heard_of() -> bool:
            return (ORDERS, 2) in heard

        await wait_until_async(both_are_heard_of, what="hints of both keys")
        assert heard[:2] == [(ORDERS, 1), (ORDERS, 2)]
    finally:
        await end([task])


async def test_set_up_is_repeatable_and_follows_the_limits(broker: Broker) -> None:
    await broker.publish_key(_event(), ORDERS)
    await broker.kv_put("state", "filer_tail", b"17")
    changed = replace(broker.config, keys_max_bytes=32 * MIB, bucket_max_bytes=8 * MIB, ack_wait_s=5)
    async with _connected(changed) as other:
        assert await asyncio.gather(other.ensure(), other.ensure()) == [False, False]
        assert await other.subscribe([ORDERS, ODD]) == ()
        assert await other.pending(ORDERS) == (1, 0)
        assert await other.kv_get("state", "filer_tail") == b"17"
    client = await _client(changed)
    try:
        info = await client.jetstream().stream_info(f"{changed.namespace}_keys")
        assert info.config.max_bytes == 32 * MIB
        assert info.config.discard_new_per_subject
        bucket = await client.jetstream().stream_info(f"KV_{changed.namespace}_state")
        assert bucket.config.max_bytes == 8 * MIB
        subscription = await client.jetstream().consumer_info(info.config.name or "", KEYS_OF_ORDERS)
        assert subscription.config.ack_wait == 5
    finally:
        await client.close()


async def test_two_instances_set_up_at_once(config: BrokerConfig) -> None:
    async with _connected(config) as one, _connected(config) as other:
        await asyncio.gather(one.ensure(), other.ensure())
        await asyncio.gather(one.subscribe([ORDERS]), other.subscribe([ORDERS]))


async def test_subscriptions_of_streams_that_are_gone_are_named(broker: Broker) -> None:
    assert await broker.subscribe([ORDERS]) == ("keys==a=2Eb=20c==" + "=C3=A9=3E=2A",)


async def _client(config: BrokerConfig) -> Client:
    return await nats.connect(config.url, user=config.user, password=config.password)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"retention": api.RetentionPolicy.LIMITS}, "retention is limits, expected workqueue"),
        ({"storage": api.StorageType.MEMORY}, "storage is memory, expected file"),
        ({"discard_new_per_subject": False}, "discard_new_per_subject is False, expected True"),
        ({"max_msgs_per_subject": 2}, "max_msgs_per_subject is 2, expected 1"),
    ],
)
async def test_a_js_stream_that_works_otherwise_is_refused(
    config: BrokerConfig, change: dict[str, object], field: str
) -> None:
    ns = config.namespace
    client = await _client(config)
    try:
        await client.jetstream().add_stream(
            api.StreamConfig(
                name=f"{ns}_keys",
                subjects=[f"{ns}.keys.>"],
                retention=api.RetentionPolicy.WORK_QUEUE,
                discard=api.DiscardPolicy.NEW,
                discard_new_per_subject=True,
                max_msgs_per_subject=1,
                max_bytes=MIB,
            ).evolve(**change)
        )
        async with _connected(config) as broker:
            with pytest.raises(BrokerMisconfigured, match=field) as refusal:
                await broker.ensure()
            assert f"nats stream rm {ns}_keys" in refusal.value.hint
    finally:
        await client.close()


async def test_subjects_that_another_js_stream_has_are_refused(config: BrokerConfig) -> None:
    client = await _client(config)
    try:
        await client.jetstream().add_stream(
            name=f"{config.namespace}x", subjects=[f"{config.namespace}.dead.>"]
        )
        async with _connected(config) as broker:
            with pytest.raises(BrokerMisconfigured, match="overlap"):
                await broker.ensure()
    finally:
        await client.close()


async def test_a_wrong_password_is_wrong_and_not_waited_for(config: BrokerConfig) -> None:
    with pytest.raises(BrokerMisconfigured, match="Authorization") as refusal:
        await Broker.connect(replace(config, password="wrong", connect_timeout_s=60))
    assert "LOTUS_NATS_PASSWORD" in refusal.value.hint
    assert "wrong" not in repr(replace(config, password="wrong"))


async def test_no_server_is_waited_for(config: BrokerConfig) -> None:
    with pytest.raises(Unavailable, match="nats: connect"):
        await Broker.connect(replace(config, url="nats://127.0.0.1:1", connect_timeout_s=0.5))


async def test_a_queue_that_is_full_is_unavailable_not_a_repeat(config: BrokerConfig) -> None:
    async with _connected(replace(config, keys_max_bytes=4096)) as broker:
        await broker.ensure()
        await broker.subscribe([ORDERS])
        results = await asyncio.gather(
            *(broker.publish_key(_event(number), ORDERS) for number in range(100)), return_exceptions=True
        )
        refused = [result for result in results if result is not True]
        assert 0 < len(refused) < 100
        assert all(isinstance(result, Unavailable) and "maximum bytes" in str(result) for result in refused)
        [delivery] = await broker.fetch(ORDERS, 1, 5)
        await delivery.done()
        assert await broker.publish_key(_event(1000), ORDERS)


async def test_a_message_above_the_servers_limit_names_the_setting(broker: Broker) -> None:
    assert broker.max_payload_bytes == 8 * MIB
    with pytest.raises(BrokerMisconfigured, match="max_payload"):
        await broker.publish_dead(ORDERS, b"x" * (8 * MIB + 1))


async def test_feeds_keep_what_they_are_sent(broker: Broker) -> None:
    await broker.publish_dead(None, b"whole")
    await broker.publish_commit(ORDERS, b"{}")
    client = await _client(broker.config)
    try:
        js, ns = client.jetstream(), broker.config.namespace
        assert (await js.get_last_msg(f"{ns}_dead", f"{ns}.dead._unrouted._")).data == b"whole"
        assert (await js.get_last_msg(f"{ns}_commits", f"{ns}.commits.shopify.orders")).data == b"{}"
        await client.publish(f"{ns}.events.seaweedfs", b"raw", headers={"key": "%2Fa"})  # a core publish
        await client.flush()

        async def stored() -> bool:  # nobody is told when the server has stored a core publish
            return (await js.stream_info(f"{ns}_events")).state.messages == 1

        await wait_until_async(stored, what="a core publish in the js_stream")
        assert (await js.get_last_msg(f"{ns}_events", f"{ns}.events.seaweedfs")).data == b"raw"
    finally:
        await client.close()


async def test_buckets(broker: Broker) -> None:
    assert await broker.kv_get("state", "filer_tail") is None
    assert await broker.kv_keys("inflight") == []
    identities = sorted(_event(number).identity() for number in range(300))
    await asyncio.gather(*(broker.kv_put("inflight", identity, b"1") for identity in identities))
    await broker.kv_put("inflight", identities[0], b"2")
    assert await broker.kv_get("inflight", identities[0]) == b"2"
    assert await broker.kv_keys("inflight") == identities
    assert await broker.kv_keys("state") == []
    await asyncio.gather(*(broker.kv_delete("inflight", identity) for identity in identities[1:]))
    await broker.kv_delete("inflight", identities[1])
    assert await broker.kv_get("inflight", identities[1]) is None
    assert await broker.kv_keys("inflight") == identities[:1]
    client = await _client(broker.config)
    try:  # a removed key leaves nothing, so the bucket can't fill up with them
        info = await client.jetstream().stream_info(f"KV_{broker.config.namespace}_inflight")
        assert info.state.messages == 1
    finally:
        await client.close()


async def test_nothing_is_lost_when_the_server_is_killed(stack: Stack, broker: Broker) -> None:
    """Every publish that was answered is delivered, whatever the server went through."""
    stored: set[str] = set()
    stop = asyncio.Event()

    async def publish() -> None:
        number = 0
        while not stop.is_set():
            try:
                await broker.publish_key(_event(number), ORDERS)
            except Unavailable:
                await asyncio.sleep(0.05)
                continue
            stored.add(_event(number).key)
            number += 1

    async def stored_more(than: int) -> None:
        async def more() -> bool:
            return len(stored) > than

        await wait_until_async(more, timeout_s=30, what=f"more than {than} stored")

    publishing = asyncio.create_task(publish())
    await stored_more(200)
    await asyncio.to_thread(stack.nats.kill)
    with pytest.raises(Unavailable):
        await broker.kv_keys("state")
    await asyncio.to_thread(stack.nats.start)
    await stored_more(len(stored) + 200)
    stop.set()
    await publishing
    found: set[str] = set()
    while batch := await broker.fetch(ORDERS, 100, 1):
        found |= {KeyEvent.from_json(delivery.payload).key for delivery in batch}
        await asyncio.gather(*(delivery.done() for delivery in batch))
    assert found >= stored
    assert await broker.pending(ORDERS) == (0, 0)


async def test_a_claim_can_be_settled_after_a_restart(stack: Stack, broker: Broker) -> None:
    await broker.publish_key(_event(), ORDERS)
    delivery = await _one(broker)
    await asyncio.to_thread(stack.nats.kill)
    with pytest.raises(Unavailable):
        await delivery.done()
    await asyncio.to_thread(stack.nats.start)
    await _again(delivery.done, "the ack is taken")
    assert await broker.pending(ORDERS) == (0, 0)
    assert await broker.fetch(ORDERS, 1, 2.5) == []


async def test_an_error_that_closes_the_client_is_recovered_from(
    config: BrokerConfig, broker: Broker
) -> None:
    """A protocol error makes the server cut us off, and nats-py closes for good."""
    client = broker._client  # pyright: ignore[reportPrivateUsage] - the wire itself is what we break
    assert client._transport is not None  # pyright: ignore[reportPrivateUsage]
    client._transport.write(b"NONSENSE\r\n")  # pyright: ignore[reportPrivateUsage]

    async def closed() -> bool:
        return client.is_closed

    await wait_until_async(closed, what="the client is closed")
    assert await broker.publish_key(_event(), ORDERS)
    await (await _one(broker)).done()
    assert await broker.kv_get("state", "filer_tail") is None
    assert broker.is_connected


async def test_a_closed_broker_says_so(config: BrokerConfig) -> None:
    broker = await Broker.connect(config)
    await broker.close()
    await broker.close()
    with pytest.raises(Unavailable, match="closed"):
        await broker.publish_key(_event(), ORDERS)


async def test_an_event_on_a_foreign_subject_is_not_ours(broker: Broker) -> None:
    subject = key_subject("elsewhere", ORDERS, _event().identity())
    with pytest.raises(ValueError, match="not a key subject"):
        parse_key_subject(broker.config.namespace, subject)
