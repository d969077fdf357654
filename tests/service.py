"""A whole service for tests: the consumer of one tenant, what Airbyte does to it, and a reader of its lake."""

import asyncio
import io
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from consumer.app import Service
from consumer.broker import Broker
from consumer.connections import broker_config
from consumer.definitions import load_definitions
from consumer.embedded.identity import S3Identity, Tenant
from consumer.events import KeyEvent
from consumer.objects import Bucket, open_bucket
from consumer.settings import Settings, inherited_environment, load_settings
from feeders.arrow import pa, pq
from feeders.lake import Lake, StatementFailed
from feeders.streams import StreamId
from tests.helpers import wait_until

T = TypeVar("T")

START_TIMEOUT_S = 60.0
WORK_TIMEOUT_S = 60.0

ORDERS = StreamId(source="shopify", stream="orders")


def settings_of(tenant: Tenant, **changes: str) -> Settings:
    """The tenant's settings; a test may change some: `settings_of(tenant, LOTUS_SWEEP_MAX_PENDING="5")`."""
    return load_settings(tenant.env() | {"LOTUS_HTTP_PORT": "0"} | changes)


# What Airbyte does


def order_key(name: str) -> str:
    """A key of shopify.orders, on one day."""
    return f"raw/shopify/orders/year=2026/month=07/day=04/{name}.parquet"


def parquet(rows: Sequence[Mapping[str, object]]) -> bytes:
    """A Parquet file of these rows; a column that a table has and the file lacks becomes null."""
    body = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), body)
    return body.getvalue()


def orders(*ids: int, **columns: object) -> bytes:
    """A file of shopify.orders with these ids; `columns` are the same in every row."""
    return parquet([{"id": number, **columns} for number in ids])


def put(tenant: Tenant, key: str, body: bytes) -> str:
    """Puts an object into the landing bucket as Airbyte's identity does; returns its etag."""
    return in_landing(tenant, tenant.lander, lambda bucket: bucket.put(key, body))


def put_all(tenant: Tenant, bodies: Mapping[str, bytes]) -> dict[str, str]:
    """Puts many objects; returns their etags."""

    async def each(bucket: Bucket) -> dict[str, str]:
        return {key: await bucket.put(key, body) for key, body in bodies.items()}

    return in_landing(tenant, tenant.lander, each)


def delete_all(tenant: Tenant, keys: Iterable[str]) -> None:
    """Deletes objects from the landing bucket."""

    async def each(bucket: Bucket) -> None:
        for key in keys:
            await bucket.delete(key)

    in_landing(tenant, tenant.lander, each)


def in_landing(tenant: Tenant, who: S3Identity, act: Callable[[Bucket], Awaitable[T]]) -> T:
    """Opens the landing bucket as `who`, and runs `act` on it."""
    return in_bucket(tenant, tenant.landing_bucket, who, act)


def in_bucket(tenant: Tenant, name: str, who: S3Identity, act: Callable[[Bucket], Awaitable[T]]) -> T:
    """Opens a bucket as `who`, and runs `act` on it."""

    async def run() -> T:
        async with open_bucket(
            endpoint=tenant.endpoints.s3_url,
            access_key_id=who.access_key_id,
            secret_access_key=who.secret_access_key,
            region="us-east-1",
            bucket=name,
        ) as bucket:
            return await act(bucket)

    return asyncio.run(run())


# What SeaweedFS and operators tell the consumer


def announce(tenant: Tenant, key: str, etag: str | None = None) -> bool:
    """Publishes one more "created" event; says whether the queue took it, or has the same one already."""
    settings = settings_of(tenant)
    route = load_definitions(settings).streams.route(key)

    async def publish(broker: Broker) -> bool:
        event = KeyEvent(
            event="created",
            bucket=tenant.landing_bucket,
            key=key,
            etag=etag,
            size=None,
            mtime=None,
            version_id=None,
            found_by="seaweedfs",
            sent_at=datetime.now(UTC),
            replay=None,
        )
        return await broker.publish_key(event, route.stream.id if route else None)

    return with_broker(settings, publish)


def keys_in_queue(tenant: Tenant, stream: StreamId | None = ORDERS) -> int:
    """How many keys of a stream wait or are in work; None stands for keys of no stream."""

    async def ask(broker: Broker) -> int:
        return sum(await broker.pending(stream))

    return with_broker(settings_of(tenant), ask)


def with_broker(settings: Settings, act: Callable[[Broker], Awaitable[T]]) -> T:
    """Runs one visit to NATS in the tenant's namespace, whose js_streams it makes if they are not there yet."""

    async def run() -> T:
        broker = await Broker.connect(broker_config(settings, "test"))
        try:
            await broker.ensure()
            await broker.subscribe([stream.id for stream in load_definitions(settings).streams])
            return await act(broker)
        finally:
            await broker.close()

    return asyncio.run(run())


# The consumer


class RunningService:
    """The consumer in a thread of this process, and a reader of its lake."""

    def __init__(self, tenant: Tenant, settings: Settings) -> None:
        self.tenant = tenant
        self.settings = settings
        self.service = Service(settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None
        self._lake: Lake | None = None
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)

    def start(self) -> None:
        """Starts it, and returns when it is the writer."""
        self._thread.start()
        wait_until(self._is_writer, timeout_s=START_TIMEOUT_S, what="the service to be the lake's writer")

    def stop(self) -> None:
        """Stops it as SIGTERM does; raises what it ended with."""
        if self._lake is not None:
            self._lake.close()
        if self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self.service.stop)
        self._thread.join(timeout=START_TIMEOUT_S)
        assert not self._thread.is_alive(), "the service does not stop"
        if self._error is not None:
            raise self._error

    @property
    def lake(self) -> Lake:
        """The lake, read apart from the service."""
        if self._lake is None:
            self._lake = Lake(self.settings.lake("r-test"))
        return self._lake

    def put(self, key: str, body: bytes) -> str:
        """Puts an object into the landing bucket as Airbyte's identity does; returns its etag."""
        return put(self.tenant, key, body)

    def rows(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """Runs a query on the lake."""
        return self.lake.query(sql, parameters)

    def outcomes(self) -> Counter[str]:
        """What became of the messages so far: how many ended as "loaded", "duplicate", "poison" and so on."""
        found: Counter[str] = Counter()
        for metric in self.service.metrics.verdicts.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    found[sample.labels["outcome"]] += int(sample.value)
        return found

    @contextmanager
    def expecting(self, **wanted: int) -> Generator[None]:
        """Runs the block, and waits until so many more messages had these outcomes: `expecting(loaded=2)`."""
        before = self.outcomes()
        yield
        self.wait_for_outcomes(**{name: before[name] + count for name, count in wanted.items()})

    def wait_for_outcomes(self, **wanted: int) -> None:
        """Waits until at least so many messages had these outcomes: `wait_for_outcomes(loaded=2)`."""
        wait_until(
            lambda: all(self.outcomes()[name] >= count for name, count in wanted.items()),
            timeout_s=WORK_TIMEOUT_S,
            what=f"the outcomes {wanted}",
        )

    def wait_for_rows(self, sql: str, wanted: Sequence[tuple[object, ...]], *parameters: object) -> None:
        """Waits until a query gives these rows; its tables need not be there yet."""
        last: list[tuple[object, ...]] = []

        def ask() -> bool:
            nonlocal last
            try:
                last = self.rows(sql, *parameters)
            except StatementFailed as error:
                if error.kind != "CatalogException":
                    raise
            return last == list(wanted)

        try:
            wait_until(ask, timeout_s=WORK_TIMEOUT_S, what=f"{wanted} of {sql}")
        except AssertionError as error:
            error.add_note(f"the last rows were {last}")
            raise

    def _run(self) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            await self.service.run(handle_signals=False)

        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._error = error

    def _is_writer(self) -> bool:
        if self._error is not None:
            raise self._error
        return self.service.state.role == "writer"


@contextmanager
def running_service(tenant: Tenant, **changes: str) -> Generator[RunningService]:
    """Runs the tenant's consumer in this process for a `with` block; `changes` are settings."""
    running = RunningService(tenant, settings_of(tenant, **changes))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@contextmanager
def service_process(
    tenant: Tenant, log: Path, *, program: Sequence[str] = ("-m", "consumer.cli", "run"), **changes: str
) -> Generator["subprocess.Popen[bytes]"]:
    """Runs the tenant's consumer as a process; a test that needs it gone kills it, else it gets SIGTERM."""
    environment = inherited_environment() | tenant.env() | changes
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *program], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
