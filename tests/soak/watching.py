"""What a soak looks at: the consumer's process once a second, and when each file became visible."""

import json
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg

from consumer.observer import ObjectTag, Observer
from feeders.lake import LakeConfig
from tests.bucketful import Bucketful, Mischief
from tests.helpers import wait_until
from tests.landed import wait_until_loaded
from tests.processes import ConsumerProcess

RATE = 5.0
MISCHIEF = Mischief()
SLICE_S = 10.0
SAMPLE_S = 1.0
_OPENED_AT: LiteralString = (
    "SELECT coalesce(extract(epoch FROM min(backend_start)), 0)::float FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'lotus-lake:w-%'"
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The consumer's process at a moment.

    Attributes:
        at_s: seconds since the landing began.
        rss_bytes: its resident memory.
        fds: its open file descriptors.
        threads: its threads.
        opened_at: when its writer opened the DuckDB instance that it has, on PostgreSQL's clock; 0: it has none.
    """

    at_s: float
    rss_bytes: int
    fds: int
    threads: int
    opened_at: float


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One version of an object that was put, and that is Parquet.

    Attributes:
        put_at_s: when its last PUT was begun, in seconds since the landing began.
        latency_ms: from then until a reader saw its rows in staging. None if none did: it was overwritten before it
            was read, or the same body had been there before.
    """

    put_at_s: float
    latency_ms: float | None


class Watch:
    """Lands files at a steady rate and looks at the consumer meanwhile; made by `watching`."""

    def __init__(
        self,
        consumer: ConsumerProcess,
        bucketful: Bucketful,
        observer: Observer,
        catalog: psycopg.Connection[tuple[object, ...]],
        record: Path | None,
    ) -> None:
        self._consumer = consumer
        self._process = psutil.Process(consumer.pid)
        self._bucketful = bucketful
        self._observer = observer
        self._catalog = catalog
        self._record = record
        self._began_at = time.time()
        self._stop = threading.Event()
        self.samples: list[Sample] = []

    def land(self, seconds: float, *, each_minute: Callable[[int], None]) -> None:
        """Lands for so long with a sample each second, and calls `each_minute` with the number of each that is over.

        Raises:
            AssertionError: the consumer has ended.
        """
        self._began_at, began = time.time(), time.monotonic()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="landing") as pool:
            landing = pool.submit(self._land_in_slices, seconds)
            try:
                while not landing.done():
                    due = began + len(self.samples) * SAMPLE_S
                    assert not self._consumer.ends_within(max(0.0, due - time.monotonic())), (
                        f"the consumer has ended:\n{self._consumer.tail()}"
                    )
                    self._take_sample(time.monotonic() - began)
                    if len(self.samples) % round(60 / SAMPLE_S) == 0:
                        each_minute(len(self.samples) // round(60 / SAMPLE_S))
            finally:
                self._stop.set()
            landing.result()

    def wait_until_all_is_seen(self) -> None:
        """Waits until the lake holds what was landed, and the reader of this watch has seen it."""
        try:
            wait_until_loaded(self._bucketful)
        except AssertionError as error:
            error.add_note(self._consumer.tail())
            raise
        whole = {tag for tag in self._bucketful.etags.items() if tag[0] not in self._bucketful.broken}
        wait_until(
            lambda: self._observer.error or whole <= self._observer.staged().keys(),
            what="the reader to see all that is loaded",
        )
        if self._observer.error is not None:
            raise self._observer.error

    def arrivals(self) -> list[Arrival]:
        """What was put so far, in no order."""
        staged = self._observer.staged()
        return [
            Arrival(put_at_s=put_at - self._began_at, latency_ms=self._latency_ms(tag, put_at, staged))
            for tag, put_at in list(self._bucketful.put_at.items())
            if tag[1] in self._bucketful.versions.get(tag[0], {})
        ]

    def _take_sample(self, at_s: float) -> None:
        with self._process.oneshot():
            row = self._catalog.execute(_OPENED_AT).fetchone()
            assert row is not None
            sample = Sample(
                at_s=round(at_s, 3),
                rss_bytes=self._process.memory_info().rss,
                fds=self._process.num_fds(),
                threads=self._process.num_threads(),
                opened_at=float(str(row[0])),
            )
        self.samples.append(sample)
        if self._record is not None:
            with self._record.open("a") as file:
                file.write(json.dumps(asdict(sample)) + "\n")

    def _land_in_slices(self, seconds: float) -> None:
        """Between two slices nothing is being put, and what is loaded by then may be deleted in the next ones."""
        ends_at = time.monotonic() + seconds
        while not self._stop.is_set() and (left_s := ends_at - time.monotonic()) > 0:
            files = max(1, round(RATE * min(SLICE_S, left_s)))
            self._bucketful.land(files, rate=RATE, mischief=MISCHIEF)
            self._bucketful.note_loaded(self._loaded())

    def _loaded(self) -> dict[str, str]:
        """The objects that are in staging as they are in the bucket, by what the reader saw."""
        staged, put_at = self._observer.staged(), self._bucketful.put_at
        return {
            key: etag
            for key, etag in self._bucketful.etags.items()
            if self._latency_ms((key, etag), put_at[key, etag], staged) is not None
        }

    def _latency_ms(self, tag: ObjectTag, put_at: float, staged: Mapping[ObjectTag, float]) -> float | None:
        # Seen before it was put: by an earlier PUT of the same body, and whether this one is loaded nobody can see.
        seen_at = staged.get(tag, 0.0)
        return 1000 * (seen_at - put_at) if seen_at > put_at else None


@contextmanager
def watching(
    consumer: ConsumerProcess, bucketful: Bucketful, reader: LakeConfig, record: Path | None
) -> Generator[Watch]:
    """A watch for a `with` block; `reader` is how its own reader opens the lake."""
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
    observer = Observer(reader)
    with reader.catalog.connect(application="soak") as catalog:
        observer.start()
        try:
            yield Watch(consumer, bucketful, observer, catalog, record)
        finally:
            observer.close()
