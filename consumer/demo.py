"""The demo: a real landing in a real stack while the consumer runs, and the proof that it came out right."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.compare import (
    ENGAGEMENT_SELECT_LIST,
    SALES_SELECT_LIST,
    Difference,
    compare_engagement,
    compare_sales,
)
from consumer.landing.generate import Landing, LandingFile
from consumer.landing.write import Landed, run_landing
from consumer.objects import open_bucket
from consumer.observer import ObjectTag, Observer
from consumer.settings import Settings, inherited_environment, load_settings
from feeders.lake import Lake, LakeConfig, Row
from feeders.streams import StreamId

LOAD_TIMEOUT_S = 600.0
READY_TIMEOUT_S = 60.0
DEFAULT_RATE = 20.0
SALES_STREAMS = ("shopify.orders", "shopify.order_refunds")


@dataclass(frozen=True, kw_only=True)
class Put:
    """One PUT of the landing; when it was begun, on the wall clock in seconds."""

    stream: str
    tag: ObjectTag
    rows: int
    started_at: float


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """One stream's part: counts, and the medians of what an independent reader saw, in milliseconds."""

    stream: str
    files: int
    rows_landed: int
    rows_loaded: int
    put_to_staging_ms: float | None
    put_to_fct_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the demo found. `put_to_*` in milliseconds, of all object versions that were seen."""

    streams: tuple[StreamReport, ...]
    files_landed: int
    files_loaded: int
    sales: Difference
    engagement: Difference
    put_to_staging_ms: tuple[float, ...]
    put_to_fct_ms: tuple[float, ...]
    sample: tuple[Row, ...]
    seconds: float
    dead_letters: int
    versions_not_seen: int
    consumer_status: int | None = None

    @property
    def rows_landed(self) -> int:
        """Rows that staging must hold."""
        return sum(each.rows_landed for each in self.streams)

    @property
    def rows_loaded(self) -> int:
        """Rows that staging holds."""
        return sum(each.rows_loaded for each in self.streams)

    @property
    def ok(self) -> bool:
        """Whether everything landed is loaded exactly once and the models are the expected ones."""
        return (
            self.files_landed == self.files_loaded
            and all(each.rows_landed == each.rows_loaded for each in self.streams)
            and self.sales.equal
            and self.engagement.equal
            and self.dead_letters == 0
            and self.consumer_status == 0
        )

    def as_json(self) -> dict[str, object]:
        """The last line of the demo."""
        return {
            "ok": self.ok,
            "files_landed": self.files_landed,
            "files_loaded": self.files_loaded,
            "rows_landed": self.rows_landed,
            "rows_loaded": self.rows_loaded,
            "fct_sales_rows": self.sales.found_rows,
            "fct_sales_equal": self.sales.equal,
            "fct_customer_engagement_rows": self.engagement.found_rows,
            "fct_customer_engagement_equal": self.engagement.equal,
            "put_to_staging_ms_p50": percentile(self.put_to_staging_ms, 0.50),
            "put_to_staging_ms_p99": percentile(self.put_to_staging_ms, 0.99),
            "put_to_fct_ms_p50": percentile(self.put_to_fct_ms, 0.50),
            "put_to_fct_ms_p99": percentile(self.put_to_fct_ms, 0.99),
        }


class ConsumerDied(Exception):
    """The consumer ended while the demo needed it; the text ends with its last log lines."""


class UntilObjects(Iterator[LandingFile]):
    """A landing that ends when so many different objects are in the bucket; overwrites come on top."""

    def __init__(self, landing: Landing, objects: int) -> None:
        self._landing = landing
        self._objects = objects

    def __next__(self) -> LandingFile:
        if len(self._landing.objects) >= self._objects:
            raise StopIteration
        return next(self._landing)


@contextmanager
def running_consumer(tenant: Tenant, log: Path) -> Generator["subprocess.Popen[bytes]"]:
    """Runs `lotus-lake run` as a process of its own; SIGTERM at the end."""
    environment = inherited_environment() | tenant.env()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "consumer.cli", "run"], env=environment, stdout=output, stderr=output
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


def last_lines(log: Path, count: int = 10) -> str:
    """The end of a log, for an error."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


async def run_demo(
    stack: Stack,
    tenant: Tenant,
    *,
    files: int,
    seed: int,
    rate: float,
    on_landed: Callable[[Landed], None],
    on_loaded: Callable[[int], None],
) -> Report:
    """Lands `files` objects while a consumer runs, waits until all is loaded, and compares.

    Raises:
        ConsumerDied: the consumer ended early.
        TimeoutError: not everything was loaded within LOAD_TIMEOUT_S.
    """
    started = time.monotonic()
    settings = load_settings(tenant.env())
    landing = Landing(seed=seed, files=None)
    log = stack.folder / "logs" / "consumer.log"
    observer = Observer(reader_config(settings))
    puts: list[Put] = []
    with running_consumer(tenant, log) as consumer:
        await until_ready(tenant, consumer, log)
        observer.start()
        try:
            await land(tenant, UntilObjects(landing, files), rate=rate, puts=puts, on_landed=on_landed)
            last = {put.tag[0]: put for put in sorted(puts, key=lambda put: put.started_at)}
            wanted = {put.tag for put in last.values()}
            deadline = time.monotonic() + LOAD_TIMEOUT_S
            while True:
                if observer.error is not None:
                    raise observer.error
                if consumer.poll() is not None:
                    raise ConsumerDied(
                        f"the consumer ended with status {consumer.poll()}:\n{last_lines(log)}"
                    )
                loaded = wanted & observer.loaded()
                on_loaded(len(loaded))
                if loaded == wanted and all(is_complete(observer, put) for put in last.values()):
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{len(loaded)} of {len(wanted)} objects loaded after {LOAD_TIMEOUT_S:g} s"
                    )
                await asyncio.sleep(0.05)
        finally:
            await asyncio.to_thread(observer.close)
        found = await asyncio.to_thread(
            report, settings, landing, puts, observer, len(wanted), len(loaded), time.monotonic() - started
        )
    return replace(found, consumer_status=consumer.returncode)


async def until_ready(tenant: Tenant, consumer: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until the consumer is the writer and says that it is ready."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            require_alive(consumer, log)
            try:
                async with session.get(f"http://127.0.0.1:{tenant.http_port}/readyz") as answer:
                    if answer.status == 200 and (await answer.json())["reason"] == "writer":
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.05)
    raise TimeoutError(f"the consumer was not ready after {READY_TIMEOUT_S:g} s:\n{last_lines(log)}")


def require_alive(consumer: "subprocess.Popen[bytes]", log: Path) -> None:
    """Raises ConsumerDied if the consumer has ended."""
    if consumer.poll() is not None:
        raise ConsumerDied(f"the consumer ended with status {consumer.poll()}:\n{last_lines(log)}")


def is_complete(observer: Observer, put: Put) -> bool:
    """Says whether a PUT is visible as far as it has to be."""
    seen = observer.seen(put.tag)
    return seen is not None and (put.stream not in SALES_STREAMS or seen.in_fct is not None)


def reader_config(settings: Settings) -> LakeConfig:
    """How the independent reader opens the lake."""
    return settings.lake("r-demo")


async def land(
    tenant: Tenant,
    landing: Iterator[LandingFile],
    *,
    rate: float,
    puts: list[Put],
    on_landed: Callable[[Landed], None],
) -> None:
    """Puts the landing as Airbyte's identity, and notes each PUT with its etag and the time it was finished."""
    etags: dict[str, str] = {}
    async with open_bucket(
        endpoint=tenant.endpoints.s3_url,
        access_key_id=tenant.lander.access_key_id,
        secret_access_key=tenant.lander.secret_access_key,
        region="us-east-1",
        bucket=tenant.landing_bucket,
    ) as bucket:

        async def put(key: str, body: bytes) -> None:
            etags[key] = await bucket.put(key, body)

        def landed(done: Landed) -> None:
            puts.append(
                Put(
                    stream=f"{done.source}.{done.stream}",
                    tag=(done.key, etags[done.key]),
                    rows=done.rows,
                    started_at=done.started_at.timestamp(),
                )
            )
            on_landed(done)

        await run_landing(landing, put, rate=rate, on_progress=landed)


def report(
    settings: Settings,
    landing: Landing,
    puts: list[Put],
    observer: Observer,
    files_landed: int,
    files_loaded: int,
    seconds: float,
) -> Report:
    """Counts staging, compares both fct tables row by row, and puts the figures together."""
    lake = Lake(reader_config(settings))
    try:
        sales = lake.query(f"SELECT {SALES_SELECT_LIST} FROM main.fct_sales")
        engagement = lake.query(f"SELECT {ENGAGEMENT_SELECT_LIST} FROM main.fct_customer_engagement")
        sample = lake.query(
            "SELECT order_id, customer_id, financial_status, gross_sales, discounts, returns, net_sales, shipping,"
            " taxes, total_sales FROM main.fct_sales ORDER BY order_id LIMIT 10"
        )
        counts = {
            stream: lake.query(f"SELECT count(*) FROM staging.{table_of(stream)}")[0][0]
            for stream in landing.totals()
        }
        dead = lake.query("SELECT count(*) FROM meta.feeder_failures WHERE resolved_at IS NULL")[0][0]
    finally:
        lake.close()
    staging, fct = latencies(puts, observer)
    totals = landing.totals()
    return Report(
        streams=tuple(
            StreamReport(
                stream=stream,
                files=totals[stream].objects,
                rows_landed=totals[stream].rows,
                rows_loaded=counts[stream],
                put_to_staging_ms=percentile(tuple(staging.get(stream, [])), 0.5),
                put_to_fct_ms=percentile(tuple(fct.get(stream, [])), 0.5),
            )
            for stream in sorted(totals)
        ),
        files_landed=files_landed,
        files_loaded=files_loaded,
        sales=compare_sales(landing.expected_sales(), sales),
        engagement=compare_engagement(landing.expected_engagement(), engagement),
        put_to_staging_ms=tuple(value for values in staging.values() for value in values),
        put_to_fct_ms=tuple(value for values in fct.values() for value in values),
        sample=tuple(sample),
        seconds=seconds,
        dead_letters=dead,
        versions_not_seen=sum(observer.seen(put.tag) is None for put in puts),
    )


def latencies(
    puts: list[Put], observer: Observer
) -> tuple[Mapping[str, list[float]], Mapping[str, list[float]]]:
    """Milliseconds from the start of each PUT until a reader saw it, by stream: in staging, and in fct_sales.

    A version that was overwritten before it was read is in neither, since nobody could see it: they are counted.
    """
    staging: dict[str, list[float]] = {}
    fct: dict[str, list[float]] = {}
    for put in puts:
        seen = observer.seen(put.tag)
        if seen is None:
            continue
        staging.setdefault(put.stream, []).append(1000 * (seen.in_staging - put.started_at))
        if put.stream in SALES_STREAMS and seen.in_fct is not None:
            fct.setdefault(put.stream, []).append(1000 * (seen.in_fct - put.started_at))
    return staging, fct


def percentile(values: tuple[float, ...], share: float) -> float | None:
    """The nearest-rank percentile, rounded to a tenth; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * int(share * 1000) // 1000))
    return round(ordered[rank - 1], 1)


def table_of(stream: str) -> str:
    """The staging table of a stream of the landing."""
    source, _, name = stream.partition(".")
    return f"stg_{StreamId(source=source, stream=name).source}__{name}"
