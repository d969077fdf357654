"""A worker pool on a real queue, of which only the walks are not real: what is looked at is the order of the claims."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from consumer.broker import Broker
from consumer.broker.config import BrokerConfig
from consumer.embedded.identity import Tenant
from consumer.events import Identity, KeyEvent
from consumer.metrics import Metrics
from consumer.pauses import Pauses
from consumer.tasks import end
from consumer.verdict import Ending
from consumer.walked import Trace, Walked
from consumer.worker import WorkerConfig, WorkerPool
from feeders.streams import StreamId

MIB = 1024 * 1024
BREAKER_KEYS = 20


def stream_ids(count: int) -> list[StreamId]:
    """The ids of so many streams."""
    return [StreamId(source="many", stream=f"s{number:03}") for number in range(count)]


def key_of(stream: StreamId, number: int) -> str:
    """A key of a stream."""
    return f"raw/{stream.source}/{stream.stream}/{number:06}.parquet"


def stream_of(key: str) -> str:
    """The name of a key's stream."""
    return key.split("/")[2]


def broker_config(tenant: Tenant) -> BrokerConfig:
    """How to reach the tenant's queue."""
    return BrokerConfig(
        url=tenant.endpoints.nats_url,
        user=tenant.nats_user,
        password=tenant.nats_password,
        namespace=tenant.namespace,
        keys_max_bytes=64 * MIB,
    )


def event_of(stream: StreamId, number: int) -> KeyEvent:
    """The event of a key of a stream."""
    return KeyEvent(
        event="created",
        bucket="landing",
        key=key_of(stream, number),
        found_by="filer_tail",
        etag=None,
        size=None,
        mtime=None,
        sent_at=datetime.now(UTC),
    )


@asynccontextmanager
async def queue(config: BrokerConfig, streams: Iterable[StreamId]) -> AsyncGenerator[Broker]:
    """A connection to a queue that has these streams' subscriptions, for a `with` block."""
    broker = await Broker.connect(config)
    try:
        await broker.ensure()
        await broker.subscribe(streams)
        yield broker
    finally:
        await broker.close()


async def publish(broker: Broker, stream: StreamId, numbers: Iterable[int]) -> None:
    """Puts keys of a stream into the queue, a hundred at a time."""
    limit = asyncio.Semaphore(100)

    async def one(number: int) -> None:
        async with limit:
            assert await broker.publish_key(event_of(stream, number), stream)

    await asyncio.gather(*(one(number) for number in numbers))


@dataclass(frozen=True, kw_only=True)
class _Listed:
    id: StreamId


@dataclass(kw_only=True)
class _Counter:
    keys_in_work: int = 0


class _NoSuspects:
    async def run(self) -> None:
        await asyncio.Event().wait()

    def clear(self, _: Identity) -> None:
        """There are none."""


@dataclass(kw_only=True)
class Walks:
    """Stands in for the walk of a key: it lasts until `commit`, as a key's does until the writer's COMMIT.

    `claimed` has the keys in the order in which their walks began; `batches` are those that ended together.
    """

    streams: list[_Listed]
    writer: _Counter = field(default_factory=_Counter)
    suspects: _NoSuspects = field(default_factory=_NoSuspects)
    claimed: list[str] = field(default_factory=list[str])
    batches: list[list[str]] = field(default_factory=list[list[str]])
    heard: Callable[[str], None] = lambda _: None
    waiting: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])

    async def walk(
        self,
        event: KeyEvent,
        _identity: Identity,
        *,
        is_claimed: Callable[[], bool],
        trace: Trace,
        isolated: bool = False,
    ) -> Walked:
        """Begins, and waits to be committed."""
        assert is_claimed(), (trace, isolated)
        self.claimed.append(event.key)
        self.heard(event.key)
        committed = self.waiting[event.key] = asyncio.Event()
        await committed.wait()
        return Walked(ending=Ending.LOADED)

    def commit(self, most: int) -> list[str]:
        """Ends the walks that began first, at most so many, and says which."""
        batch = list(self.waiting)[:most]
        for key in batch:
            self.waiting.pop(key).set()
        self.batches.append(batch)
        return batch


@dataclass(frozen=True, kw_only=True)
class RunningPool:
    """A pool that runs, and what a test may look at."""

    pool: WorkerPool
    walks: Walks
    pauses: Pauses
    troubles: list[str]


@asynccontextmanager
async def running_pool(
    broker: Broker,
    streams: Iterable[StreamId],
    *,
    slots: int = 200,
    breaker_probe_s: float = 60.0,
    repair: Callable[[], Awaitable[None]] | None = None,
) -> AsyncGenerator[RunningPool]:
    """Runs a worker pool for a `with` block."""
    streams = list(streams)
    walks, metrics = Walks(streams=[_Listed(id=stream) for stream in streams]), Metrics()
    pauses = Pauses(streams, metrics)
    troubles: list[str] = []

    def note_trouble(_: str, reason: str | None) -> None:
        troubles.extend([reason] if reason else [])

    async def set_up() -> None:
        await broker.ensure()
        await broker.subscribe(streams)

    pool = WorkerPool(
        WorkerConfig(
            slots=slots,
            ack_wait_s=broker.config.ack_wait_s,
            breaker_keys=BREAKER_KEYS,
            breaker_probe_s=breaker_probe_s,
        ),
        broker=broker,
        walk=cast("Any", walks),
        metrics=metrics,
        pauses=pauses,
        term_lasts=lambda: True,
        note_trouble=note_trouble,
        repair=repair or set_up,
    )
    running = asyncio.create_task(pool.run())
    try:
        yield RunningPool(pool=pool, walks=walks, pauses=pauses, troubles=troubles)
    finally:
        failed = running.done()
        await end([running])
        await pool.drain(0)
        if failed:
            running.result()
