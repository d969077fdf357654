"""The sweep: what is in the bucket and neither loaded, dead nor pending is published, and nothing else."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from consumer.broker import Broker
from consumer.cli.sweep import sweep_and_report
from consumer.connections import broker_config, loader_bucket
from consumer.definitions import load_definitions
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.events import KeyEvent
from consumer.ingress.sweep import Sweep
from consumer.settings import Settings
from feeders.lake import Lake, LakeUnavailable
from feeders.reader import LakeReader
from feeders.streams import StreamId
from tests.bucketful import removing_project
from tests.helpers import wait_until, wait_until_async
from tests.lakes import definitions, open_lake, start_term
from tests.service import (
    ORDERS,
    RunningService,
    delete_all,
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


Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def sweep_by_hand(capsys: pytest.CaptureFixture[str]) -> Command:
    """`lotus-lake sweep --json` with some settings: its exit status and what it says."""

    def run(
        settings: Settings, *, confirm: str | None = None, dry_run: bool = False
    ) -> tuple[int, dict[str, Any]]:
        status = sweep_and_report(settings, confirm=confirm, dry_run=dry_run, as_json=True)
        return status, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def held(service: RunningService) -> float:
    """How many keys of the stream wait for a person, as the service says."""
    labels = {"source": "shopify", "stream": "orders"}
    return service.service.metrics.registry.get_sample_value("lotus_lake_removals_held_keys", labels) or 0.0


def test_what_is_gone_is_removed_unless_it_is_much(
    tenant: Tenant, tmp_path: Path, sweep_by_hand: Command
) -> None:
    """No tail tells of the deletions."""
    keys = [order_key(f"{number:02}") for number in range(20)]
    kept = "raw/shopify/customers/2026_07_04_1_1.parquet"
    bodies = {key: orders(number) for number, key in enumerate(keys)}
    put_all(tenant, bodies | {kept: orders(1)})
    in_staging = "SELECT id::INTEGER FROM staging.stg_shopify__orders ORDER BY id"
    changes = {"LOTUS_FILER_GRPC": "", "LOTUS_PROJECT_DIR": str(removing_project(tmp_path))}
    with running_service(tenant, **changes) as service:
        service.wait_for_outcomes(loaded=21)
        # 2 of 20 are no more than 10 %; the stream that keeps its rows is not even looked at.
        delete_all(tenant, [keys[0], keys[1], kept])
        assert sweep_by_hand(service.settings)[0] == 0
        service.wait_for_rows(in_staging, [(number,) for number in range(2, 20)])
        assert service.rows("SELECT count(*) FROM staging.stg_shopify__customers") == [(1,)]
        assert service.rows(
            "SELECT key, found_by FROM meta.feeder_files WHERE action = 'removed' ORDER BY key"
        ) == [(key, "sweep") for key in keys[:2]]
        # 2 of 18 are more.
        delete_all(tenant, keys[2:4])
        status, said = sweep_by_hand(service.settings)
        assert (status, said["removed"], said["removed_keys"]) == (1, 0, [])
        assert said["gone"]["shopify.orders"] == {
            "present": 18,
            "gone": 2,
            "listed": 16,
            "examples": keys[2:4],
            "waits": True,
        }
        status, said = sweep_by_hand(service.settings, confirm="shopify.orders", dry_run=True)
        assert (status, said["removed_keys"]) == (0, keys[2:4])
        assert service.rows(in_staging) == [(number,) for number in range(2, 20)]
        status, said = sweep_by_hand(service.settings, confirm="shopify.orders")
        assert (status, said["removed"]) == (0, 2)
        service.wait_for_rows(in_staging, [(number,) for number in range(4, 20)])
        # What is there again is loaded again.
        put(tenant, keys[0], bodies[keys[0]])
        assert sweep_by_hand(service.settings)[0] == 0
        service.wait_for_rows(in_staging, [(0,), *((number,) for number in range(4, 20))])
    # An empty place is believed to nobody but a person, however much may be gone.
    delete_all(tenant, keys)
    with running_service(tenant, LOTUS_SWEEP_MAX_REMOVED_PERCENT="100", **changes) as service:
        wait_until(lambda: held(service) == 17, timeout_s=TIMEOUT_S, what="all keys to wait for a person")
        assert len(service.rows(in_staging)) == 17


@pytest.mark.parametrize(
    ("stream", "says"), [("shopify.order", "there is no stream"), ("shopify.orders", "keeps the rows")]
)
def test_only_a_stream_whose_rows_go_can_be_confirmed(
    tenant: Tenant, stream: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        sweep_and_report(settings_of(tenant), confirm=stream, dry_run=False, as_json=False)
    assert ended.value.exit_code == 2
    assert says in capsys.readouterr().err


def test_a_catalog_without_a_lake_is_not_given_one(tenant: Tenant) -> None:
    """In the midst of a restore the catalog is empty; a new lake would be in the way of the old one."""
    put(tenant, order_key("a"), orders(1))
    with pytest.raises(LakeUnavailable, match="the catalog has no lake"):
        sweep_and_report(settings_of(tenant), confirm=None, dry_run=False, as_json=False)
