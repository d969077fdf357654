"""Replays over NATS: asked by a client that is not ours, and by the command."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from nats.aio.client import Client

from consumer.app import Service
from consumer.broker import Broker
from consumer.cli.asking import whoever
from consumer.connections import broker_config, loader_bucket
from consumer.definitions import load_definitions
from consumer.embedded.identity import Tenant
from consumer.metrics import Metrics
from consumer.objects import Bucket, open_bucket
from consumer.pauses import Pauses
from consumer.service import make_services
from consumer.subjects import Lane
from consumer.tasks import end
from feeders.epoch import Epoch
from feeders.errors import LakeConflict
from feeders.lake import Lake
from feeders.reader import LakeReader
from feeders.writer import Writer
from tests.asking import Document, ask, command, connect, is_offered, replay_schemas, request, wait_until_done
from tests.helpers import wait_until, wait_until_async
from tests.service import (
    RunningService,
    announce,
    delete_all,
    order_key,
    orders,
    put,
    running_service,
    settings_of,
)

PREFIX = order_key("").removesuffix(".parquet")
FLAT = "raw/shopify/orders/2026_07_05_1783209600000_0.parquet"
NOBODYS = "raw/nobody/x.parquet"
COUNTS = "SELECT _source_file, count(*) FROM staging.stg_shopify__orders GROUP BY ALL ORDER BY ALL"
REPLAYED = "SELECT key, requested_by, reason, rows FROM meta.feeder_files WHERE action = 'replayed' ORDER BY loaded_at"


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

        # A second one, by the command, changes nothing but the ledger; that says who and why.
        done = command(tenant, "replay", "--prefix", PREFIX, "--reason", "to be sure")
        assert done.exit_code == 0, done.output
        assert "2 keys, 4 rows in staging now, 4 rows in the files" in done.output
        assert service.rows(COUNTS) == [(order_key("a"), 3), (order_key("b"), 1)]
        asked = (whoever(), "to be sure")
        assert sorted(service.rows(REPLAYED)[1:]) == [
            (order_key("a"), *asked, 3),
            (order_key("b"), *asked, 1),
        ]
        asyncio.run(only_the_writer_offers(tenant))
        wrong = command(tenant, "replay", "--from", "2026-07-01")
        assert wrong.exit_code == 2
        assert "source: missing" in wrong.output

    nobody = command(tenant, "replay", order_key("a"))
    assert nobody.exit_code == 3
    assert f"no writer answers on {tenant.namespace}.replay" in nobody.output


def lose_rows(service: RunningService, key: str) -> None:
    """Takes an object's rows out of staging behind the ledger's back."""

    def lose() -> bool:
        try:
            with service.lake.transaction("a test") as transaction:
                return bool(
                    transaction.change(
                        "DELETE FROM staging.stg_shopify__orders WHERE _source_file = ?", (key,)
                    )
                )
        except LakeConflict:  # the models' run committed meanwhile
            return False

    wait_until(lose, what="the rows to be gone")


async def only_the_writer_offers(tenant: Tenant) -> None:
    """A standby beside the writer offers no service."""
    standby = Service(settings_of(tenant))
    running = asyncio.create_task(standby.run(handle_signals=False))
    client = await connect(tenant)
    try:

        async def stands_by() -> bool:
            return standby.state.role == "standby" and standby.state.not_ready is None

        await wait_until_async(stands_by, what="the other process to stand by")
        answers: list[bytes] = []
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        await client.publish("$SRV.PING.lotus-lake", reply=inbox)
        answers.append((await subscription.next_msg(5)).data)
        await client.flush()
        assert [tenant.namespace.encode() in each for each in answers] == [True]
        assert subscription.pending_msgs == 0
    finally:
        await client.close()
        standby.stop()
        await running


def test_what_a_request_finds(tenant: Tenant) -> None:
    with running_service(tenant) as service:
        with service.expecting(loaded=5, poison=1, unrouted=1):
            service.put(order_key("a"), orders(1, 2, 3))
            service.put(order_key("b"), orders(4))
            service.put(order_key("gone"), orders(5, 6))
            service.put(FLAT, orders(7))
            service.put(FLAT.replace("07_05", "07_06"), orders(8))
            service.put(order_key("broken"), b"not parquet")
            service.put(NOBODYS, orders(9))
        with service.expecting(kept=1):
            delete_all(tenant, [order_key("gone")])
    put(tenant, order_key("a"), orders(*range(10, 15)))  # a version that nobody has loaded

    async def run() -> None:
        async with offered(tenant, LOTUS_REPLAY_MAX_KEYS="4") as broker:
            client = await connect(tenant)
            try:
                request_id = await queued_once(client, tenant, broker)
                await found(client, tenant)
                await refused(client, tenant)
                await told_and_not_asked(client, tenant, broker)
                await lost(client, tenant, request_id)
            finally:
                await client.close()

    asyncio.run(run())


def lander(tenant: Tenant) -> AbstractAsyncContextManager[Bucket]:
    return open_bucket(
        endpoint=tenant.endpoints.s3_url,
        access_key_id=tenant.lander.access_key_id,
        secret_access_key=tenant.lander.secret_access_key,
        region="us-east-1",
        bucket=tenant.landing_bucket,
    )


@asynccontextmanager
async def offered(tenant: Tenant, **changes: str) -> AsyncGenerator[Broker]:
    """The services of a term whose workers do nothing, so that what is queued stays."""
    settings = settings_of(tenant, **changes)
    definitions = load_definitions(settings)
    reader = LakeReader(lambda: Lake(settings.lake("r-test")))
    async with AsyncExitStack() as held:
        broker = await Broker.connect(broker_config(settings, "t-offered"))
        held.push_async_callback(broker.close)
        await broker.ensure()
        await broker.subscribe([stream.id for stream in definitions.streams])
        bucket = await held.enter_async_context(loader_bucket(settings, settings.landing_bucket))
        held.callback(reader.close)
        services = make_services(
            settings,
            definitions,
            broker=broker,
            bucket=bucket,
            reader=reader,
            writer=Writer(
                lambda: Lake(settings.lake("w-test")), epoch=Epoch(1), limits=settings.batch_limits
            ),
            pauses=Pauses([], Metrics()),
            metrics=Metrics(),
            status=nothing,
        )
        running = asyncio.create_task(services.run())
        held.push_async_callback(end, [running])
        client = await connect(tenant)
        held.push_async_callback(client.close)

        await wait_until_async(lambda: is_offered(client, tenant), what="the services")
        yield broker


async def nothing() -> dict[str, object]:
    """Nobody asks here how everything is."""
    return {}


async def queued_once(client: Client, tenant: Tenant, broker: Broker) -> str:
    """The same keys asked for again while they wait are in the queue once; returns the second request's id."""
    first, _ = await ask(client, tenant, {"prefix": PREFIX})
    assert first["state"] == "queued"
    assert set(first) == set(replay_schemas()["lotus-lake.replay/1"]["answer"]["properties"])
    assert first["names"] == [order_key(name) for name in ("a", "b", "broken")]
    assert (first["queued"], first["already_queued"], first["waiting"]) == (3, 0, 3)
    assert first["rows_in_staging"] == 4
    assert (first["rows_in_files"], first["files_not_counted"]) == (6, 1), "5 by a footer, 1 by the ledger"
    assert first["missing"] == {
        "keys": 1,
        "names": [order_key("gone")],
        "truncated": False,
        "rows_in_staging": 2,
    }
    again, _ = await ask(client, tenant, {"prefix": PREFIX, "by": "bob"})
    assert (again["queued"], again["already_queued"]) == (0, 3)
    assert await broker.pending(Lane.REPLAYS) == (3, 0)
    status, _ = await ask(client, tenant, {"id": first["id"]}, service="replay.status")
    assert (status["state"], status["waiting"]) == ("queued", 3)
    return again["id"]


async def found(client: Client, tenant: Tenant) -> None:
    """Each way of choosing finds its keys, and a dry run queues none."""

    async def dry(**document: object) -> Document:
        answer, _ = await ask(client, tenant, {**document, "dry_run": True})
        assert (answer["state"], answer["queued"], answer["already_queued"]) == ("dry_run", 0, 0)
        return answer

    stream = {"source": "shopify", "stream": "orders"}
    assert (await dry(**stream, **{"from": "2026-07-05", "to": "2026-07-05"}))["names"] == [FLAT]
    both = await dry(**stream, **{"from": "2026-07-04", "to": "2026-07-05"})
    assert (both["keys"], both["missing"]["keys"]) == (4, 1)
    year = await dry(**stream, **{"from": "2026-01-01", "to": "2026-07-05"})
    assert (year["keys"], year["missing"]["keys"]) == (4, 1)
    assert (await dry(dead="not_parquet"))["names"] == [order_key("broken")]
    unrouted = await dry(dead="unrouted")
    assert (unrouted["keys"], unrouted["unrouted"]["names"]) == (0, [NOBODYS])
    gone = await dry(key=order_key("gone"))
    assert (gone["keys"], gone["missing"]["rows_in_staging"]) == (0, 2)
    assert (await dry(key=NOBODYS))["unrouted"]["keys"] == 1
    assert (await dry(prefix="raw/no-such/"))["keys"] == 0


async def refused(client: Client, tenant: Tenant) -> None:
    """A bad request gets an error that says what is wrong, in headers and body."""

    async def refusal(
        document: Mapping[str, object] | bytes, code: int, says: str, *, service: str = "replay"
    ) -> None:
        answer, headers = await ask(client, tenant, document, service=service)
        assert headers["Nats-Service-Error-Code"] == str(code)
        assert says in headers["Nats-Service-Error"]
        assert answer["error"]["code"] == code
        assert says in answer["error"]["message"]
        assert answer["error"]["hint"]

    await refusal(b"raw/shopify", 400, "not JSON")
    await refusal({"key": "a", "colour": "red"}, 400, "unknown field 'colour'")
    days = {"from": "2026-07-05", "to": "2026-07-05"}
    await refusal({"source": "shopify", "stream": "nope", **days}, 400, "no such stream: 'shopify.nope'")
    await refusal({"id": "0" * 16}, 404, "no replay with the id", service="replay.status")
    await refusal(b"x" * 20_000, 413, "20,000 bytes, expected at most 16,384")
    await refusal({"prefix": "raw/shopify/"}, 413, "more than 4 keys")


async def told_and_not_asked(client: Client, tenant: Tenant, broker: Broker) -> None:
    """A message without a reply subject is carried out too."""
    await client.publish(f"{tenant.namespace}.replay", b'{"key": "%s"}' % FLAT.encode())

    async def is_queued() -> bool:
        return await broker.pending(Lane.REPLAYS) == (4, 0)

    await wait_until_async(is_queued, what="the key to be queued")


async def lost(client: Client, tenant: Tenant, request_id: str) -> None:
    """Who waits for replays that a new queue does not have hears of it."""
    await client.jetstream().purge_stream(f"{tenant.namespace}_keys")
    status, _ = await ask(client, tenant, {"id": request_id}, service="replay.status")
    assert (status["state"], status["outcomes"]) == ("done", {"lost": 3})


def test_thousands_of_replays_make_no_new_key_wait(tenant: Tenant) -> None:
    many = 1500
    asyncio.run(put_many(tenant, many))
    changes = {"LOTUS_SWEEP_AT_START": "false", "LOTUS_FILER_GRPC": "", "LOTUS_WORKER_SLOTS": "16"}
    with running_service(tenant, **changes) as service:
        answer, _ = request(tenant, {"prefix": PREFIX})
        assert answer["keys"] == many
        assert answer["state"] in ("queueing", "queued")
        new = order_key("new").replace("month=07", "month=08")
        etag = service.put(new, orders(1))
        put_at = datetime.now(UTC)
        announce(tenant, new, etag)
        service.wait_for_outcomes(loaded=1)
        before = (
            "SELECT count(*) FROM meta.feeder_files WHERE action = 'replayed' AND loaded_at BETWEEN ? AND ("
        )
        [(overtaken,)] = service.rows(
            before + "SELECT loaded_at FROM meta.feeder_files WHERE key = ?)", put_at, new
        )
        status, _ = request(tenant, {"id": answer["id"]}, service="replay.status")
        assert status["waiting"] > many / 3, "the test needs more replays to say anything"
        assert int(str(overtaken)) <= 60, (
            "some batches of the replays' 4 slots while NATS, S3 and the writer do their work"
        )


async def put_many(tenant: Tenant, many: int) -> None:
    body = orders(1)
    async with lander(tenant) as bucket:
        for at in range(0, many, 50):
            await asyncio.gather(*(bucket.put(order_key(f"{at + n:05}"), body) for n in range(50)))
