"""The sweep: what is in the bucket and neither loaded, dead nor pending is published, and nothing else."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest

from consumer.broker import Broker
from consumer.connections import broker_config, loader_bucket
from consumer.definitions import load_definitions
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.events import KeyEvent
from consumer.ingress.sweep import Sweep
from consumer.settings import Settings
from feeders.lake import Lake
from feeders.reader import LakeReader
from feeders.streams import StreamId
from tests.helpers import wait_until_async
from tests.lakes import definitions, open_lake, start_term
from tests.service import (
    ORDERS,
    RunningService,
    order_key,
    orders,
    put,
    put_all,
    running_service,
    settings_of,
)

TIMEOUT_S = 60.0
ODD_NAMES = (
    "plain",
    "two words",
    "größe",
    "a+b=c&d",
    "100%",
    "%20",
    "it's",
    'say "no"',
    "a,b;c",
    "湯呑み",
    "emoji 🪷",
    "~tilde!(x)*",
    "#hash?mark",
)
BROKEN = order_key("broken")
STRANGER = "raw/unknown/stream/readme.txt"


@pytest.fixture(scope="module")
def service(stack: Stack) -> Iterator[RunningService]:
    """A consumer with no tail, of a bucket that was filled before its first start."""
    tenant = stack.tenant("sweep")
    put_all(tenant, {order_key(name): orders(number) for number, name in enumerate(ODD_NAMES)})
    put_all(tenant, {BROKEN: b"PAR1 and no more", STRANGER: b"hello"})
    with running_service(tenant, LOTUS_FILER_GRPC="") as service:
        yield service


class Watched:
    """A sweep of a tenant's bucket, and what it published."""

    def __init__(
        self, settings: Settings, sweep: Sweep, published: list[KeyEvent], asked: list[None]
    ) -> None:
        self.settings = settings
        self.sweep = sweep
        self.published = published
        self.asked = asked


@asynccontextmanager
async def sweep_of(
    tenant: Tenant, broker: Broker | None = None, *, max_pending: int = 10_000
) -> AsyncGenerator[Watched]:
    """A sweep that publishes to a broker, or only notes what it would publish."""
    settings = settings_of(tenant)
    published: list[KeyEvent] = []
    asked: list[None] = []

    async def publish(event: KeyEvent, stream: StreamId | None) -> bool:
        fresh = await broker.publish_key(event, stream) if broker else True
        published.append(event)
        return fresh

    async def pending(stream: StreamId | None) -> int:
        asked.append(None)
        return sum(await broker.pending(stream)) if broker else 0

    reader = LakeReader(lambda: Lake(settings.lake("r-sweep")))
    async with loader_bucket(settings, settings.landing_bucket) as bucket:
        sweep = Sweep(
            bucket_name=settings.landing_bucket,
            prefix=settings.landing_prefix,
            bucket=bucket,
            streams=load_definitions(settings).streams,
            reader=reader,
            publish=publish,
            pending=pending,
            max_pending=max_pending,
            found=lambda _: None,
        )
        try:
            yield Watched(settings, sweep, published, asked)
        finally:
            reader.close()


def test_what_was_there_before_the_first_start_is_loaded(service: RunningService) -> None:
    service.wait_for_outcomes(loaded=len(ODD_NAMES), poison=1, unrouted=1)
    assert service.rows("SELECT key, found_by FROM meta.feeder_files ORDER BY key") == sorted(
        (order_key(name), "sweep") for name in ODD_NAMES
    )
    assert service.rows("SELECT id, _source_file FROM staging.stg_shopify__orders ORDER BY id") == [
        (number, order_key(name)) for number, name in enumerate(ODD_NAMES)
    ]


async def test_loaded_and_dead_ones_are_not_published_again(service: RunningService) -> None:
    await asyncio.to_thread(service.wait_for_outcomes, loaded=len(ODD_NAMES), poison=1, unrouted=1)
    async with sweep_of(service.tenant) as watched:
        swept = await watched.sweep.run()
        assert (swept.listed, swept.published) == (len(ODD_NAMES) + 2, 0)
        # A new version of a loaded one, of a broken one, and a new one: these three and no other.
        changed = {
            order_key("plain"): orders(0, 1),
            BROKEN: b"PAR1 and still no more",
            order_key("new"): orders(2),
        }
        etags = {
            key: await asyncio.to_thread(put, service.tenant, key, body) for key, body in changed.items()
        }
        swept = await watched.sweep.run()
        assert swept.published == len(changed)
        assert {event.key: event.etag for event in watched.published} == etags
        assert {event.found_by for event in watched.published} == {"sweep"}


async def test_a_sweep_keeps_at_most_so_many_keys_of_a_stream_in_the_queue(tenant: Tenant) -> None:
    lake = await asyncio.to_thread(open_lake, tenant, instance="w-sweep")
    await asyncio.to_thread(start_term, lake, definitions(), instance="w-sweep")
    lake.close()
    keys = [order_key(str(number)) for number in range(8)]
    other = "raw/shopify/customers/2026_07_04_1_1.parquet"
    await asyncio.to_thread(put_all, tenant, {key: orders(1) for key in (*keys, other)})
    broker = await Broker.connect(broker_config(settings_of(tenant), "sweep-test"))
    try:
        await broker.ensure()
        await broker.subscribe([stream.id for stream in definitions().streams])
        async with sweep_of(tenant, broker, max_pending=3) as watched:
            sweeping = asyncio.create_task(watched.sweep.run())

            async def is_waiting() -> bool:
                """The queue is full, and the sweep has asked for room several times since."""
                if sum(await broker.pending(ORDERS)) != 3:
                    return False
                before = len(watched.asked)
                await wait_until_async(
                    lambda: asyncio.sleep(0, len(watched.asked) >= before + 3 or sweeping.done()),
                    timeout_s=TIMEOUT_S,
                    what="the sweep to ask again",
                )
                return not sweeping.done()

            await wait_until_async(is_waiting, timeout_s=TIMEOUT_S, what="a sweep that waits for room")
            assert sum(await broker.pending(ORDERS)) == 3

            worked: set[str] = set()
            while len(worked) < len(keys):
                for delivery in await broker.fetch(ORDERS, 2, 5.0):
                    worked.add(KeyEvent.from_json(delivery.payload).key)
                    await delivery.done()
                assert sum(await broker.pending(ORDERS)) <= 3
            swept = await asyncio.wait_for(sweeping, TIMEOUT_S)
            assert worked == set(keys)
            assert (swept.listed, swept.published) == (len(keys) + 1, len(keys) + 1)
    finally:
        await broker.close()
