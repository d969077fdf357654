"""How fresh is the lake? Files land at a rate while the consumer runs, held against the same transactions by hand.

An independent reader, in a process of its own, notes when it sees each file in staging and in fct_sales, from the
start of its PUT. The floor is what a file costs at least: PUT it, and at once run the service's own two transactions
on a lake that is open already, with no queue, no notification and no second file. It is measured before and after
the service on the same lake, because models take longer the more rows there are; the ratio is the figure.

A service that does not keep up with a rate is not waited for. What was not seen SETTLE_S after the last PUT counts as
if it had been seen then, so those percentiles are too small, and grow with the length of the run.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from consumer.demo import Put, land
from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing, LandingFile
from consumer.landing.write import Landed
from consumer.observer import ObjectTag
from tests.benchmarks.by_hand import HandPut, load_by_hand
from tests.benchmarks.figures import NONE, Spread, say, say_table, scaled, shown
from tests.benchmarks.stages import (
    MODELS,
    PUT,
    STAGES,
    TO_FCT,
    ConsumerLog,
    Freshness,
    freshness,
    mean,
    read_log,
    stages_of,
)
from tests.benchmarks.watching import Sighting, Watch, is_seen
from tests.lakes import definitions, one, open_lake
from tests.processes import consumer_process

pytestmark = pytest.mark.bench
RATES = (1, 10, 50)
LANDING_S = 60
ROWS = (10, 30)
WARM_UP = 9
"""One file of each stream, by hand: they make the models' tables, and are in no figure."""
BY_HAND = 10
"""Files by hand before the service, and as many after it: their p95 and p99 are the slowest of each ten."""
SETTLE_S = 20.0
"""How long after the last PUT the reader waits for what it has not seen yet."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One rate: what the service gave, what it takes by hand, and the ratio of the two.

    Attributes:
        files_s: the rate that was wanted.
        put_files_s: the rate that was put.
        files: how many landed while the consumer ran.
        not_seen: how many of them were not seen in staging, or of sales in fct_sales, when the run ended.
        files_by_hand: before and after.
        service: what the service gave.
        by_hand: what it takes by hand.
        staging_ratio: service over by hand, percentile by percentile.
        fct_sales_ratio: the same for fct_sales.
    """

    files_s: int
    put_files_s: float
    files: int
    not_seen: int
    files_by_hand: int
    service: Freshness
    by_hand: Freshness
    staging_ratio: Spread
    fct_sales_ratio: Spread


@dataclass(frozen=True, kw_only=True)
class Files:
    """What is put for one rate, in this order; made beforehand, so that it takes no time from the service."""

    before: Sequence[LandingFile]
    service: Sequence[LandingFile]
    after: Sequence[LandingFile]

    @property
    def total(self) -> int:
        """How many files."""
        return len(self.before) + len(self.service) + len(self.after)


@dataclass(frozen=True, kw_only=True)
class Served:
    """What landed while the consumer ran, how long the PUTs took, and what was seen until `ended_at`."""

    puts: Sequence[Put]
    answers_s: Sequence[float]
    sightings: Mapping[ObjectTag, Sighting]
    ended_at: float
    log: ConsumerLog

    @property
    def put_files_s(self) -> float:
        """The rate at which PUTs began."""
        starts = [put.started_at for put in self.puts]
        return (len(starts) - 1) / (max(starts) - min(starts))

    @property
    def not_seen(self) -> int:
        """How many files were not seen everywhere."""
        return sum(not is_seen(put, self.sightings.get(put.tag)) for put in self.puts)


@pytest.fixture(scope="module")
def figures() -> Iterator[list[Figure]]:
    """The figures so far; their tables are printed at the end."""
    found: list[Figure] = []
    yield found
    say_freshness(found)
    say_stages(found)


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{rate}_files_s")
def test_freshness(
    rate: int, tenant: Tenant, tmp_path: Path, figures: list[Figure], bench_scale: float
) -> None:
    defined = definitions()
    files = make_files(rate, bench_scale)
    log = tmp_path / "consumer.log"
    with Watch(tenant) as watch:
        before = load_by_hand(tenant, defined, files.before, watch, tmp_path)[WARM_UP:]
        served = serve(tenant, files.service, rate, log, watch)
        after = load_by_hand(tenant, defined, files.after, watch, tmp_path)
    assert_loaded_once(tenant, least=files.total - served.not_seen, most=files.total)
    service = freshness_of_service(served)
    by_hand = mean(freshness_by_hand(before), freshness_by_hand(after))
    figure = Figure(
        files_s=rate,
        put_files_s=round(served.put_files_s, 1),
        files=len(served.puts),
        not_seen=served.not_seen,
        files_by_hand=len(before) + len(after),
        service=service,
        by_hand=by_hand,
        staging_ratio=service.staging.over(by_hand.staging),
        fct_sales_ratio=service.fct_sales.over(by_hand.fct_sales),
    )
    figures.append(figure)
    say(json.dumps(asdict(figure), ensure_ascii=False))


def make_files(rate: int, scale: float) -> Files:
    """A landing of so many seconds at this rate, without overwrites, and what is loaded by hand."""
    landing = (file for file in Landing(seed=rate, files=None, rows=ROWS) if not file.overwrites)
    by_hand = scaled(BY_HAND, scale, least=3)

    def some(count: int) -> list[LandingFile]:
        return list(itertools.islice(landing, count))

    return Files(
        before=some(WARM_UP + by_hand),
        service=some(scaled(rate * LANDING_S, scale, least=3)),
        after=some(by_hand),
    )


def serve(tenant: Tenant, files: Sequence[LandingFile], rate: int, log: Path, watch: Watch) -> Served:
    """Lands the files while the consumer runs, and waits until they were seen, if it does not take too long."""
    puts: list[Put] = []
    answers_s: list[float] = []

    def landed(done: Landed) -> None:
        answers_s.append((done.finished_at - done.started_at).total_seconds())

    with consumer_process(tenant, log) as consumer:
        consumer.wait_until_idle()
        asyncio.run(land(tenant, iter(files), rate=rate, puts=puts, on_landed=landed))
        sightings = watch.wait_for(puts, within_s=SETTLE_S)
        ended_at = time.time()
        assert consumer.terminate() == 0, consumer.tail()
    return Served(puts=puts, answers_s=answers_s, sightings=sightings, ended_at=ended_at, log=read_log(log))


def assert_loaded_once(tenant: Tenant, *, least: int, most: int) -> None:
    """No file twice, whoever loaded it, and none of those missing that were seen."""
    lake = open_lake(tenant, instance="r-bench")
    try:
        loads, keys = one(
            lake, "SELECT count(*), count(DISTINCT key) FROM meta.feeder_files WHERE action = 'loaded'"
        )
    finally:
        lake.close()
    assert loads == keys
    assert least <= keys <= most


def freshness_of_service(served: Served) -> Freshness:
    """What the reader saw, and the stages of the consumer's log."""
    stages = {PUT: served.answers_s, **stages_of(served.puts, served.sightings, served.log.keys)}
    return freshness(
        served.puts, served.sightings, {**stages, MODELS: served.log.model_runs_s}, ended_at=served.ended_at
    )


def freshness_by_hand(done: Sequence[HandPut]) -> Freshness:
    """What the reader saw, and how long the PUT and the two transactions took."""
    stages = {
        PUT: [each.answered_at - each.put.started_at for each in done],
        "commit": [each.committed_at - each.answered_at for each in done],
        "seen": [each.sighting.in_staging - each.committed_at for each in done],
        MODELS: [each.modelled_at - each.committed_at for each in done],
    }
    sightings = {each.put.tag: each.sighting for each in done}
    return freshness([each.put for each in done], sightings, stages, ended_at=time.time())


def say_freshness(figures: Sequence[Figure]) -> None:
    """Three lines a rate: the service, the same by hand, and the ratio."""
    heads = (
        "files/s",
        "ms",
        "files",
        "not seen",
        "PUT → staging, p50",
        "p95",
        "p99",
        "PUT → fct_sales, p50",
        "p95",
        "p99",
    )

    def rows() -> Iterator[Sequence[str]]:
        for each in figures:
            counts = {"service": (each.files, each.not_seen), "by hand": (each.files_by_hand, 0)}
            for name, done in (("service", each.service), ("by hand", each.by_hand)):
                values = (*counts[name], *done.staging.values, *done.fct_sales.values)
                yield str(each.files_s), name, *map(shown, values)
            ratios = (*each.staging_ratio.values, *each.fct_sales_ratio.values)
            yield str(each.files_s), "ratio", "", "", *(shown(value, digits=2) for value in ratios)

    say_table(heads, rows())


def say_stages(figures: Sequence[Figure]) -> None:
    """Two lines a rate: p50 and p99 of each stage."""
    names = (PUT, *STAGES, TO_FCT, MODELS)

    def cell(done: Freshness, name: str) -> str:
        found = done.stages.get(name)
        return NONE if found is None else f"{shown(found.p50, digits=1)} / {shown(found.p99, digits=1)}"

    def rows() -> Iterator[Sequence[str]]:
        for each in figures:
            for name, done in (("service", each.service), ("by hand", each.by_hand)):
                yield str(each.files_s), name, *(cell(done, stage) for stage in names)

    say_table(("files/s", "ms, p50 / p99", *names), rows())
