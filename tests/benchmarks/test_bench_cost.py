"""What does it cost? Objects, S3 requests, catalog rows and commits: of a backlog, and of a day at one file a second.

The consumer reaches S3 through a proxy that counts. Its files land without it, and the lake has its tables and models
before anything is counted: what is left are files and models, of a backlog also the start of the term.
"""

import itertools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing, LandingFile
from tests.benchmarks.by_hand import by_hand
from tests.benchmarks.counting import KINDS, CountingProxy, Holdings, Requests, holdings
from tests.benchmarks.figures import say, say_table, scaled, shown
from tests.bucketful import Bucketful
from tests.landed import wait_until_loaded
from tests.processes import ConsumerProcess, consumer_process

pytestmark = pytest.mark.bench
BACKLOG_FILES = 1000
ROWS = 100
DIFFERENT_FILES = 100
TRICKLE_S = 60
WARM_UP = 9
"""Files before a trickle is counted, one of each stream: with them the consumer makes tables and models."""
INTERVALS_MS = (0, 1000)
DAY_S = 86_400
LOADED_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What so many files took.

    Attributes:
        files: how many landed.
        commits: snapshots made, of files and of models.
        objects_made: objects written to the lake's bucket, whatever became of them.
        objects: how many more the bucket has than before.
        catalog_rows: how many more rows DuckLake's tables have than before.
        lake_requests: the consumer's requests about the lake's bucket, by kind.
        landing_requests: about the landing bucket.
    """

    files: float
    commits: float
    objects_made: float
    objects: float
    catalog_rows: float
    lake_requests: Mapping[str, float]
    landing_requests: Mapping[str, float]

    def times(self, factor: float) -> "Cost":
        """So many times as much of everything."""

        def all_times(requests: Mapping[str, float]) -> dict[str, float]:
            return {kind: round(factor * count, 1) for kind, count in requests.items()}

        return Cost(
            files=round(factor * self.files, 1),
            commits=round(factor * self.commits, 1),
            objects_made=round(factor * self.objects_made, 1),
            objects=round(factor * self.objects, 1),
            catalog_rows=round(factor * self.catalog_rows, 1),
            lake_requests=all_times(self.lake_requests),
            landing_requests=all_times(self.landing_requests),
        )


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, and what follows from it for another number of files."""

    what: str
    measured: Cost
    extrapolated_to: str
    extrapolated: Cost


class RepeatedFiles(Landing):
    """A landing whose first files come again and again under new keys: a file's cost is not in its values."""

    def __init__(self, *, seed: int, different: int, rows: int) -> None:
        super().__init__(seed=seed, files=None, rows=rows)
        self._different = different
        self._files_made: list[LandingFile] = []
        self._repeats = itertools.count()

    def __next__(self) -> LandingFile:
        if len(self._files_made) < self._different:
            while (file := super().__next__()).overwrites:
                pass
            self._files_made.append(file)
            return file
        number = next(self._repeats)
        file = self._files_made[number % self._different]
        # Digits at the end of the name are allowed in both layouts.
        return replace(file, key=f"{file.key.removesuffix('.parquet')}{number:06}.parquet")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What was counted up to a moment."""

    requests: Requests
    holdings: Holdings


class Lane:
    """A lake, the proxy through which its consumer reaches S3, and the files that land for it."""

    def __init__(self, tenant: Tenant, proxy: CountingProxy, *, seed: int) -> None:
        self.tenant = tenant
        self.bucketful = Bucketful(
            tenant=tenant, landing=RepeatedFiles(seed=seed, different=DIFFERENT_FILES, rows=ROWS)
        )
        self._proxy = proxy

    @contextmanager
    def consumer(self, log: Path, *, interval_ms: int = 0) -> Generator[ConsumerProcess]:
        """Runs the consumer through the proxy for a `with` block, and ends it in good order."""
        settings = {
            "LOTUS_S3_ENDPOINT": self._proxy.url,
            "LOTUS_COMMIT_MIN_INTERVAL_MS": str(interval_ms),
        }
        with consumer_process(self.tenant, log, settings=settings) as consumer:
            yield consumer
            assert consumer.terminate() == 0, consumer.tail()

    def wait_until_loaded(self) -> None:
        """Waits until all that has landed is loaded, models and acks included."""
        wait_until_loaded(self.bucketful, timeout_s=LOADED_TIMEOUT_S)

    def mark(self) -> Mark:
        """What was counted until now."""
        return Mark(requests=self._proxy.counts(), holdings=holdings(self.tenant))

    def cost(self, before: Mark, after: Mark, *, files: int) -> Cost:
        """What was counted between two moments."""
        requests = after.requests.since(before.requests)
        return Cost(
            files=files,
            commits=after.holdings.snapshot - before.holdings.snapshot,
            objects_made=requests.objects_made[self.tenant.lake_bucket],
            objects=after.holdings.objects - before.holdings.objects,
            catalog_rows=after.holdings.catalog_rows - before.holdings.catalog_rows,
            lake_requests=requests.of_bucket(self.tenant.lake_bucket),
            landing_requests=requests.of_bucket(self.tenant.landing_bucket),
        )


@contextmanager
def lane_of(tenant: Tenant, *, seed: int) -> Generator[Lane]:
    """A lane for a `with` block."""
    with CountingProxy(tenant) as proxy:
        yield Lane(tenant, proxy, seed=seed)


@pytest.fixture(scope="module")
def figures() -> Iterator[list[Figure]]:
    """The figures so far; their table is printed at the end."""
    found: list[Figure] = []
    yield found
    say_costs(found)


def test_a_backlog(tenant: Tenant, tmp_path: Path, figures: list[Figure], bench_scale: float) -> None:
    files = scaled(BACKLOG_FILES, bench_scale, least=10)
    with lane_of(tenant, seed=1) as lane:
        with by_hand(tenant, lane.bucketful.defined):
            pass  # it makes tables and models
        lane.bucketful.land(files, rate=0)
        before = lane.mark()
        with lane.consumer(tmp_path / "consumer.log"):
            lane.wait_until_loaded()
        measured = lane.cost(before, lane.mark(), files=files)
    note(
        figures,
        Figure(
            what=f"a backlog of {files:,} files",
            measured=measured,
            extrapolated_to="1,000 files",
            extrapolated=measured.times(1000 / files),
        ),
    )


def test_a_day_at_one_file_a_second(
    stack: Stack, tmp_path: Path, figures: list[Figure], bench_scale: float
) -> None:
    """Both intervals take their minute at the same time: what is counted is no time.

    A machine that needs more than a second for a file would put several into a commit, and cost less.
    """
    files = scaled(TRICKLE_S, bench_scale, least=3)
    with ExitStack() as held:
        lanes = [held.enter_context(lane_of(new_tenant(stack), seed=ms)) for ms in INTERVALS_MS]
        consumers = [
            held.enter_context(lane.consumer(tmp_path / f"{ms}.log", interval_ms=ms))
            for lane, ms in zip(lanes, INTERVALS_MS, strict=True)
        ]
        for lane, consumer in zip(lanes, consumers, strict=True):
            consumer.wait_until_idle()
            lane.bucketful.land(WARM_UP, rate=0)
        for lane in lanes:
            lane.wait_until_loaded()
        before = [lane.mark() for lane in lanes]
        with ExitStack() as landing:
            for lane in lanes:
                landing.enter_context(lane.bucketful.landing_meanwhile(files, rate=1))
        for lane in lanes:
            lane.wait_until_loaded()
        after = [lane.mark() for lane in lanes]
    for lane, ms, first, last in zip(lanes, INTERVALS_MS, before, after, strict=True):
        measured = lane.cost(first, last, files=files)
        note(
            figures,
            Figure(
                what=f"{files} files at 1 file/s, LOTUS_COMMIT_MIN_INTERVAL_MS={ms}",
                measured=measured,
                extrapolated_to="a day",
                extrapolated=measured.times(DAY_S / files),
            ),
        )


def new_tenant(stack: Stack) -> Tenant:
    """A lake that no other test knows, for a test that needs two."""
    return stack.tenant(f"t{uuid4().hex[:12]}")


def note(figures: list[Figure], figure: Figure) -> None:
    """Keeps a figure for the table, and shows it at once."""
    assert figure.measured.objects_made >= figure.measured.objects, "objects came past the proxy"
    figures.append(figure)
    say(json.dumps(asdict(figure)))


def say_costs(figures: Sequence[Figure]) -> None:
    """Two lines a figure: what was measured, and what follows from it. Requests are those of both buckets."""
    heads = ("", "files", "commits", "objects made", "objects more", "catalog rows more", *KINDS)

    def row(what: str, cost: Cost) -> Sequence[str]:
        counts = (cost.files, cost.commits, cost.objects_made, cost.objects, cost.catalog_rows)
        requests = (cost.lake_requests[kind] + cost.landing_requests[kind] for kind in KINDS)
        return what, *map(shown, (*counts, *requests))

    rows: list[Sequence[str]] = []
    for each in figures:
        rows += [row(each.what, each.measured), row(f"… that is, {each.extrapolated_to}", each.extrapolated)]
    say_table(heads, rows)
