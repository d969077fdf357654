"""A landing put through S3, and the proof that a lake holds exactly what is in the bucket."""

import asyncio
import io
import itertools
import json
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import nats
import psycopg

from consumer.broker import Broker
from consumer.connections import broker_config
from consumer.embedded.identity import Tenant
from consumer.errors import Unavailable
from consumer.landing.compare import SALES_SELECT_LIST, compare_sales
from consumer.landing.generate import Landing, LandingFile
from consumer.landing.write import run_landing
from consumer.objects import Bucket, open_bucket
from consumer.observer import newest_snapshot
from consumer.settings import load_settings
from feeders.arrow import pq
from feeders.lake import Lake, LakeConfig, LakeError, StatementFailed
from feeders.streams import StreamTable
from tests.helpers import wait_until, wait_until_async
from tests.lakes import definitions, lake_config, one

LOADED_TIMEOUT_S = 120.0


@dataclass(kw_only=True)
class Bucketful:
    """What was put into a tenant's landing bucket so far: bodies and etags by key, the last of each.

    `broken` are the keys of objects that are no Parquet: dead letters have to come of them.
    """

    tenant: Tenant
    landing: Landing
    bodies: dict[str, bytes] = field(default_factory=dict[str, bytes])
    etags: dict[str, str] = field(default_factory=dict[str, str])
    broken: set[str] = field(default_factory=set[str])
    overwrites: int = 0

    def land(self, files: int, *, rate: float = 20.0) -> None:
        """Puts the next files of the landing."""
        asyncio.run(self._land(itertools.islice(self.landing, files), rate))

    def put(self, key: str, body: bytes, *, broken: bool = False) -> None:
        """Puts one object that is not of the landing."""
        file = LandingFile(key=key, source="", stream="", body=body, rows=0, overwrites=False)
        asyncio.run(self._land(iter([file]), 0))
        if broken:
            self.broken.add(key)

    @contextmanager
    def landing_meanwhile(self, files: int, *, rate: float = 10.0) -> Generator[None]:
        """Lands in a thread while the block runs; the block's end waits for the last file."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self.land(files, rate=rate)
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                failed.append(error)

        thread = threading.Thread(target=run, name="landing")
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failed:
            raise failed[0]

    async def _land(self, files: Iterator[LandingFile], rate: float) -> None:
        tenant = self.tenant
        async with open_bucket(
            endpoint=tenant.endpoints.s3_url,
            access_key_id=tenant.lander.access_key_id,
            secret_access_key=tenant.lander.secret_access_key,
            region="us-east-1",
            bucket=tenant.landing_bucket,
        ) as bucket:

            async def put(key: str, body: bytes) -> None:
                etag = await wait_until_async(
                    lambda: put_once(bucket, key, body), timeout_s=60, what="S3 to take a put"
                )
                assert etag is not None
                self.overwrites += key in self.bodies
                self.bodies[key], self.etags[key] = body, etag

            await run_landing(files, put, rate=rate)


async def put_once(bucket: Bucket, key: str, body: bytes) -> str | None:
    """Puts an object and returns its etag; None if S3 is away."""
    try:
        return await bucket.put(key, body)
    except Unavailable:
        return None


def wait_until_loaded(bucketful: Bucketful, *, timeout_s: float = LOADED_TIMEOUT_S) -> None:
    """Waits until the ledger knows the last version of each object, the models are fresh and the queue is empty."""
    tenant = bucketful.tenant
    wanted = {(k, e) for k, e in bucketful.etags.items() if k not in bucketful.broken}
    lacks = "never looked"
    with LakeWatch(lake_config(tenant, instance="r-wait")) as watch:

        def loaded() -> bool:
            nonlocal lacks
            if lake := watch.changed():
                try:
                    lacks = what_lacks(lake, wanted, bucketful.broken)
                except StatementFailed:
                    lacks = "the tables"
                except LakeError as error:
                    lacks = str(error)
                    watch.close()
            return not lacks and pending(tenant) == 0

        try:
            wait_until(loaded, timeout_s=timeout_s, what="all objects to be loaded")
        except AssertionError as error:
            error.add_note(f"it lacks {lacks or f'an empty queue: {pending(tenant)} keys'}")
            raise


class LakeWatch:
    """A reader that asks DuckDB only after the catalog has a new snapshot: it leaves the CPU to the consumer."""

    def __init__(self, config: LakeConfig) -> None:
        self._config = config
        self._lake: Lake | None = None
        self._catalog: psycopg.Connection[tuple[object, ...]] | None = None
        self._seen = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def changed(self) -> Lake | None:
        """The lake, if there is a snapshot that was not looked at yet."""
        try:
            if self._catalog is None:
                self._catalog = self._config.catalog.connect(application="t-watch")
            newest = newest_snapshot(self._catalog, self._config.catalog)
            if newest <= self._seen:
                return None
            if self._lake is None:
                self._lake = Lake(self._config)
        except (LakeError, psycopg.Error):
            self.close()
            return None
        self._seen = newest
        return self._lake

    def close(self) -> None:
        """Closes both; the next look opens them again."""
        if self._lake is not None:
            self._lake.close()
        if self._catalog is not None:
            self._catalog.close()
        self._lake = self._catalog = None
        self._seen = -1


def what_lacks(lake: Lake, wanted: set[tuple[str, str]], broken: set[str]) -> str:
    """Says what the lake does not hold yet; empty if it holds all."""
    found = set(
        lake.query("SELECT key, last(etag ORDER BY epoch, loaded_at) FROM meta.feeder_files GROUP BY key")
    )
    if missing := wanted - found:
        return f"{len(missing)} of {len(wanted)} objects, one is {min(missing)[0]}"
    dead = {key for (key,) in lake.query("SELECT key FROM meta.feeder_failures WHERE resolved_at IS NULL")}
    if broken - dead:
        return f"dead letters of {broken - dead}"
    ran = {model for (model,) in lake.query("SELECT DISTINCT model FROM meta.transform_cursors")}
    if never := {model.name for model in definitions().models} - ran:
        return f"models that never ran: {sorted(never)}"
    behind = lake.query(
        "SELECT model FROM meta.transform_cursors JOIN meta.feeder_cursors AS moved"
        " ON input = 'staging.stg_' || source || '__' || stream WHERE moved.files > 0"
        " AND (transform_cursors.snapshot_id IS NULL OR transform_cursors.snapshot_id < moved.snapshot_id)"
    )
    return f"fresh models: {sorted(set(behind))}" if behind else ""


def pending(tenant: Tenant) -> int:
    """How many key events wait or are claimed, of all streams and of none."""

    async def ask() -> int:
        broker = await Broker.connect(broker_config(load_settings(tenant.env()), "t-pending"))
        try:
            streams = [None, *(stream.id for stream in definitions().streams)]
            return sum([sum(await broker.pending(stream)) for stream in streams])
        finally:
            await broker.close()

    return asyncio.run(ask())


def assert_exact(bucketful: Bucketful) -> None:
    """Asserts that staging, ledger, cursors and models hold the bucket's objects, each exactly once."""
    lake = Lake(lake_config(bucketful.tenant, instance="r-exact"))
    streams = definitions().streams
    try:
        _assert_staging(lake, bucketful, streams)
        _assert_ledger(lake, bucketful)
        _assert_cursors(lake, bucketful, streams)
        sales = lake.query(f"SELECT {SALES_SELECT_LIST} FROM main.fct_sales")
        difference = compare_sales(bucketful.landing.expected_sales(), sales)
        assert difference.equal, difference.describe()
        dead = lake.query("SELECT key FROM meta.feeder_failures WHERE resolved_at IS NULL")
        assert sorted(key for (key,) in dead) == sorted(bucketful.broken)
        whole = lake.query("SELECT DISTINCT key FROM meta.feeder_failures")
        assert {key for (key,) in whole} <= bucketful.broken, "a whole object was a dead letter for a time"
    finally:
        lake.close()
    assert pending(bucketful.tenant) == 0


def _assert_staging(lake: Lake, bucketful: Bucketful, streams: StreamTable) -> None:
    for stream in streams:
        wanted: Counter[tuple[str, str]] = Counter()
        for key, body in bucketful.bodies.items():
            route = streams.route(key)
            if route is not None and route.stream.id == stream.id and key not in bucketful.broken:
                ids = pq.read_table(io.BytesIO(body), columns=["_airbyte_raw_id"]).column(0).to_pylist()
                wanted.update((key, str(each)) for each in ids)
        found = Counter(lake.query(f"SELECT _source_file, _airbyte_raw_id FROM staging.{stream.table}"))
        assert found.total() == wanted.total(), f"{stream.id}: {_by_file(found)} for {_by_file(wanted)}"
        assert found == wanted, (
            f"{stream.id}: {len(found - wanted)} rows too many, {len(wanted - found)} missing"
        )


def _by_file(rows: Mapping[tuple[str, str], int]) -> dict[str, int]:
    files: Counter[str] = Counter()
    for (file, _), count in rows.items():
        files[file] += count
    return dict(files)


def _assert_ledger(lake: Lake, bucketful: Bucketful) -> None:
    """The latest entry of each key is of its last version, and no version follows itself."""
    entries: dict[str, list[tuple[str, int, str]]] = {}
    for key, etag, rows, action in lake.query(
        "SELECT key, etag, rows, action FROM meta.feeder_files ORDER BY epoch, loaded_at"
    ):
        entries.setdefault(key, []).append((etag, rows, action))
    assert entries.keys() == bucketful.bodies.keys() - bucketful.broken
    for key, history in entries.items():
        etag, rows, _ = history[-1]
        assert etag == bucketful.etags[key], key
        assert rows == pq.read_metadata(io.BytesIO(bucketful.bodies[key])).num_rows, key
        etags = [etag for etag, _, _ in history]
        assert all(one != other for one, other in itertools.pairwise(etags)), (
            f"{key} was loaded twice: {history}"
        )
        assert [action for _, _, action in history] == ["loaded", *["replaced"] * (len(history) - 1)], key


def _assert_cursors(lake: Lake, bucketful: Bucketful, streams: StreamTable) -> None:
    for stream in streams:
        path, files, rows = one(
            lake,
            "SELECT cursor_path, files, rows FROM meta.feeder_cursors WHERE source = ? AND stream = ?",
            (stream.id.source, stream.id.stream),
        )
        loads = one(
            lake,
            "SELECT count(*), coalesce(sum(rows), 0)::BIGINT FROM meta.feeder_files WHERE source = ? AND stream = ?",
            (stream.id.source, stream.id.stream),
        )
        assert (files, rows) == loads, f"{stream.id}: the cursor counts {files, rows}, the ledger {loads}"
        keys = [
            key
            for key in bucketful.bodies
            if key not in bucketful.broken and (route := streams.route(key)) and route.stream.id == stream.id
        ]
        assert path == max(keys, key=str.encode, default=""), f"{stream.id}: the cursor is at {path}"


def dead_letters(tenant: Tenant) -> list[dict[str, object]]:
    """What was announced on `<ns>.dead.>` so far."""

    async def read() -> list[dict[str, object]]:
        client = await nats.connect(
            tenant.endpoints.nats_url, user=tenant.nats_user, password=tenant.nats_password
        )
        try:
            js = client.jetstream()
            info = await js.stream_info(f"{tenant.namespace}_dead")
            state = info.state
            found: list[dict[str, object]] = []
            for sequence in range(state.first_seq, state.last_seq + 1):
                message = await js.get_msg(f"{tenant.namespace}_dead", sequence)
                found.append(json.loads(message.data or b"{}"))
            return found
        finally:
            await client.close()

    return asyncio.run(read())
