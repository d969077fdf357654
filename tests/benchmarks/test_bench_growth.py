"""Does a commit stay as cheap, and a look-up as quick, with a million files in the ledger? How fast are repeats told?

Lakes with ledgers of different sizes take turns, so that the ratios hold whatever else runs. A commit is the
service's own transaction for one small file whose key has to be looked up. The ledger's files are as maintenance
leaves them. Repeats are told in two places: by a sweep, which compares a listing with the ledger, and by the writer.
"""

import json
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from consumer.embedded.stack import Stack
from consumer.events import KeyEvent
from consumer.ingress.sweep import Sweep
from consumer.objects import Bucket, ListedObject
from feeders.lake import Lake
from feeders.ledger import latest_states
from feeders.reader import LakeReader
from feeders.streams import StreamId, StreamTable
from feeders.work import Load, Outcome
from feeders.writer import BatchLimits, Writer
from tests.benchmarks.committing import CommittingLake, Cost, Timer
from tests.benchmarks.figures import ratio, say, say_table, scaled, shown
from tests.ledgers import BUCKET, STREAMS, etag_of, fill, key_of, listing
from tests.probes import STREAM
from tests.rss import Memory, forget_peak

pytestmark = pytest.mark.bench
LEDGERS = (0, 100_000, 1_000_000)
ROUNDS = 40
WARM_UP = 3
KEYS = 200
"""As many as a batch of the writer has."""
BATCHES = 50


HEADS = (
    "ledger",
    "files",
    "commit, ms",
    "ratio",
    "ratio of processor time",
    f"{KEYS} keys side by side, ms",
    f"{KEYS} keys all over, ms",
)


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One ledger: medians of milliseconds, and of processor time; ratios are to the smallest ledger."""

    rows: int
    files: int
    commit: Cost
    adjacent: Cost
    spread: Cost
    commit_ratio: float | None
    commit_cpu_ratio: float | None

    @property
    def row(self) -> tuple[str, ...]:
        """Its row of the table."""
        return (
            f"{self.rows:,}",
            str(self.files),
            shown(self.commit.wall_ms),
            shown(self.commit_ratio, digits=2),
            shown(self.commit_cpu_ratio, digits=2),
            shown(self.adjacent.wall_ms),
            shown(self.spread.wall_ms),
        )


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """How many keys that are loaded already are told in a second, and the memory of it in MiB."""

    where: str
    keys: int
    keys_s: float
    peak_mib: int
    before_mib: int


class GrownLake(CommittingLake):
    """A lake whose ledger has so many rows."""

    def __init__(self, stack: Stack, folder: Path, rows: int) -> None:
        super().__init__(stack, folder)
        self.rows = rows
        fill(self.lake, rows)
        # From here on every key is below the cursor, and is looked up.
        self.commit("raw/probe/items~/z.parquet")

    def commit_new(self) -> Cost:
        """One file under a key that lies among those of the ledger's last day."""
        [day, _] = key_of(max(0, self.rows - STREAMS)).rsplit("/", 1)
        return self.commit(f"{day}/{uuid.uuid4().hex}.parquet")

    def look_up(self, numbers: Iterable[int]) -> Cost:
        """The states of these keys; of an empty ledger nothing is found."""
        keys = [(BUCKET, key_of(number)) for number in numbers]
        timer = Timer()
        found = latest_states(self.lake, keys)
        cost = timer.cost()
        assert len(found) == (len(keys) if self.rows else 0)
        return cost

    def adjacent(self, turn: int) -> range:
        """Numbers of keys that a folder holds side by side: of one stream and day."""
        return range(turn % STREAMS, STREAMS * KEYS, STREAMS)

    def spread(self, turn: int) -> list[int]:
        """Numbers of keys of all streams, from the first day to the last."""
        return [(each * max(self.rows, KEYS) // KEYS + turn) % max(self.rows, KEYS) for each in range(KEYS)]

    def repeat(self, number: int) -> Load:
        """The load of a file that is loaded already."""
        version = replace(self.load.version, bucket=BUCKET, key=key_of(number), etag=etag_of(number))
        return replace(self.load, version=version)


@pytest.fixture(scope="module")
def lakes(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory, bench_scale: float
) -> Iterator[Mapping[int, GrownLake]]:
    """The lakes by the rows that they have at full size."""
    folder = tmp_path_factory.mktemp("files")
    made = {
        rows: GrownLake(stack, folder, scaled(rows, bench_scale, least=STREAMS * KEYS) if rows else 0)
        for rows in LEDGERS
    }
    yield made
    for each in made.values():
        each.lake.close()


@pytest.fixture(scope="module")
def repeats() -> Iterator[list[Repeats]]:
    """The figures so far; their table is printed at the end."""
    found: list[Repeats] = []
    yield found
    say_table(
        ("told by", "keys", "keys/s", "RSS before, MiB", "peak"),
        (
            (each.where, f"{each.keys:,}", shown(each.keys_s), str(each.before_mib), str(each.peak_mib))
            for each in found
        ),
    )


def note(found: list[Repeats], figure: Repeats) -> None:
    found.append(figure)
    say(json.dumps(asdict(figure)))


def test_commits_and_look_ups_beside_a_large_ledger(
    lakes: Mapping[int, GrownLake], bench_scale: float
) -> None:
    kinds: Mapping[str, Callable[[GrownLake, int], Cost]] = {
        "commit": lambda lake, _: lake.commit_new(),
        "adjacent": lambda lake, turn: lake.look_up(lake.adjacent(turn)),
        "spread": lambda lake, turn: lake.look_up(lake.spread(turn)),
    }
    costs: dict[tuple[int, str], list[Cost]] = {(rows, kind): [] for rows in lakes for kind in kinds}
    for turn in range(WARM_UP + scaled(ROUNDS, bench_scale, least=2)):
        for rows, lake in lakes.items():
            for kind, take in kinds.items():
                costs[rows, kind].append(take(lake, turn))
    typical = {key: median(each[WARM_UP:]) for key, each in costs.items()}
    figures = [
        growth_of(lake, {kind: typical[rows, kind] for kind in kinds}, typical[0, "commit"])
        for rows, lake in lakes.items()
    ]
    for figure in figures:
        say(json.dumps(asdict(figure)))
    say_table(HEADS, [figure.row for figure in figures])


def growth_of(lake: GrownLake, typical: Mapping[str, Cost], smallest: Cost) -> Growth:
    [(files,)] = lake.lake.query(
        "SELECT count(*) FROM ducklake_list_files('lakehouse', 'feeder_files', schema => 'meta')"
    )
    commit = typical["commit"]
    return Growth(
        rows=lake.rows,
        files=files,
        commit=commit,
        adjacent=typical["adjacent"],
        spread=typical["spread"],
        commit_ratio=ratio(commit.wall_ms, smallest.wall_ms),
        commit_cpu_ratio=ratio(commit.cpu_ms, smallest.cpu_ms),
    )


def median(costs: Iterable[Cost]) -> Cost:
    walls, cpus = zip(*((each.wall_ms, each.cpu_ms) for each in costs), strict=True)
    return Cost(wall_ms=round(statistics.median(walls), 1), cpu_ms=round(statistics.median(cpus), 1))


class Listed(Bucket):
    """A bucket that lists what a ledger has, from memory; `seconds` is what making the listing took."""

    def __init__(self, rows: int) -> None:
        self.name = BUCKET
        self.seconds = 0.0
        self._rows = rows

    async def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        """Lists everything."""
        assert prefix == "raw/"
        objects = listing(self._rows)
        while True:
            started = time.perf_counter()
            found = next(objects, None)
            self.seconds += time.perf_counter() - started
            if found is None:
                return
            yield found


@pytest.mark.parametrize("on_delete", ["keep", "remove"])
async def test_a_sweep_of_what_is_loaded(
    lakes: Mapping[int, GrownLake], repeats: list[Repeats], on_delete: str
) -> None:
    lake = lakes[max(LEDGERS)]
    stream = replace(STREAM, on_delete="keep" if on_delete == "keep" else "remove")
    bucket = Listed(lake.rows)
    published: list[KeyEvent] = []

    async def publish(event: KeyEvent, _: StreamId | None) -> bool:
        published.append(event)
        return True

    async def pending(_: StreamId | None) -> int:
        return 0

    reader = LakeReader(lambda: Lake(replace(lake.lake.config, instance="r-bench")))
    sweep = Sweep(
        bucket_name=BUCKET,
        prefix="raw",
        bucket=bucket,
        streams=StreamTable([stream]),
        reader=reader,
        publish=publish,
        pending=pending,
        max_pending=10_000,
        found=lambda _: None,
    )
    before = forget_peak()
    started = time.perf_counter()
    try:
        swept = await sweep.run()
    finally:
        reader.close()
    seconds = time.perf_counter() - started - bucket.seconds
    assert (swept.listed, swept.published) == (lake.rows, 0)
    # What the benchmark committed itself is gone from this listing.
    assert all(event.event == "removed" for event in published)
    figure = Repeats(
        where=f"a sweep, on_delete: {on_delete}",
        keys=lake.rows,
        keys_s=round(lake.rows / seconds),
        before_mib=before,
        peak_mib=Memory.of().peak_mib,
    )
    note(repeats, figure)


@pytest.mark.parametrize("places", ["adjacent", "spread"])
def test_the_writer_told_of_what_is_loaded(
    lakes: Mapping[int, GrownLake], repeats: list[Repeats], bench_scale: float, places: str
) -> None:
    lake = lakes[max(LEDGERS)]
    numbers = lake.adjacent if places == "adjacent" else lake.spread
    batches = [[lake.repeat(each) for each in numbers(turn)] for turn in range(scaled(BATCHES, bench_scale))]
    config = lake.lake.config
    writer = Writer(lambda: Lake(config), epoch=lake.epoch, limits=BatchLimits(), lake=Lake(config))
    before = forget_peak()
    writer.start()
    started = time.perf_counter()
    for batch in batches:
        for told in [writer.submit(load) for load in batch]:
            assert told.result(60).applied.outcome is Outcome.DUPLICATE
    seconds = time.perf_counter() - started
    assert writer.close(60)
    keys = sum(len(batch) for batch in batches)
    figure = Repeats(
        where=f"the writer, {KEYS} keys a batch, {'side by side' if places == 'adjacent' else 'all over'}",
        keys=keys,
        keys_s=round(keys / seconds),
        before_mib=before,
        peak_mib=Memory.of().peak_mib,
    )
    note(repeats, figure)
