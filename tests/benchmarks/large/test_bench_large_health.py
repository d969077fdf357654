"""A lake after 20,000 commits with maintenance on: is it as small and quick as a new one, and is every row right?

Small files land under new keys, are overwritten and deleted, by the service's own transaction; after each commit the
maintainer does what is due, as the writer does in its idle moments, and the janitor cleans up now and then. What has
to be in the lake is kept in memory, after each commit.
"""

import json
import random
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from feeders.append import apply_batch
from feeders.errors import LakeError
from feeders.health import LakeHealth, look
from feeders.janitor import clean, janitor_config
from feeders.lake import Lake, ObjectStore
from feeders.ledger import LedgerClock
from feeders.maintainer import Maintainer
from feeders.maintenance import LIVE_FEWS, Done, Policy, Step
from feeders.work import Load, Removal
from feeders.writer import REOPEN_AFTER_COMMITS
from tests.benchmarks.counting import catalog_rows, lake_objects
from tests.benchmarks.figures import ratio, say, say_table, scaled, shown
from tests.lakes import lake_config
from tests.probes import ITEMS, PARTITION, STREAM, load_of_items, start, write_items

pytestmark = pytest.mark.bench
COMMITS = 20_000
CHECKPOINTS = 10
ROWS = 20
POLICY = Policy(keep_all_s=60.0)
CLEAN_EVERY = 500
LOOKS = 30
PAIRS = 40
BUCKET = "landing"


class Heard:
    """Counts what the maintainer does."""

    def __init__(self) -> None:
        self.steps: list[Done] = []

    def looked(self, health: LakeHealth) -> None:
        """Nothing to note."""

    def done(self, done: Done) -> None:
        """A step was taken."""
        self.steps.append(done)

    def failed(self, step: Step | None, error: LakeError) -> None:
        """No step may fail."""
        raise AssertionError(f"{step}: {error}")


@dataclass(kw_only=True)
class Contents:
    """What the lake has to hold: the ids of each key, and the count and sum of all at each snapshot."""

    keys: dict[str, range] = field(default_factory=dict[str, range])
    rows: int = 0
    total: int = 0
    at: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])

    def put(self, key: str, ids: range) -> None:
        """A key's rows, in place of those it had."""
        self.take(key)
        self.keys[key] = ids
        self.rows, self.total = self.rows + len(ids), self.total + sum(ids)

    def take(self, key: str) -> None:
        """A key goes, if it is there."""
        if (ids := self.keys.pop(key, None)) is not None:
            self.rows, self.total = self.rows - len(ids), self.total - sum(ids)


class Aged:
    """A lake that lives: commits, maintenance and cleanups in turn."""

    def __init__(self, tenant: Tenant, folder: Path) -> None:
        self.tenant, self.folder = tenant, folder
        self.lake = Lake(lake_config(tenant))
        self.epoch = start(self.lake, instance="w-test")
        self.heard = Heard()
        self.maintainer = Maintainer(POLICY, self.heard)
        self.clock = LedgerClock()
        self.contents = Contents()
        self.commits = 0
        self.commit_s: list[float] = []
        self.maintenance_s = 0.0
        self._dice = random.Random(4)
        self._ids = 0
        self._names: list[str] = []

    def commit(self) -> float:
        """One small file, or a removal; returns the seconds."""
        work = self._next()
        started = time.perf_counter()
        with self.lake.transaction("1 items") as transaction:
            apply_batch(transaction, [work], epoch=self.epoch, clock=self.clock, open_failures=set())
        seconds = time.perf_counter() - started
        if isinstance(work, Load):
            work.plan.path.unlink()
        self.commits += 1
        self.commit_s.append(seconds)
        self.maintainer.committed()
        return seconds

    def live(self) -> None:
        """A commit, and what comes with it."""
        self.commit()
        self.contents.at[self.newest()] = self.contents.rows, self.contents.total
        started = time.perf_counter()
        while self.maintainer.due_in(idle=True) == 0:
            self.maintainer.run(self.lake, self.epoch)
        self.maintenance_s += time.perf_counter() - started
        if not self.commits % REOPEN_AFTER_COMMITS:
            self.lake.close()
        if not self.commits % CLEAN_EVERY:
            self.clean()

    def newest(self) -> int:
        """The newest snapshot."""
        return int(self.lake.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])

    def clean(self) -> None:
        """What the janitor does."""
        who = self.tenant.janitor
        store = ObjectStore(
            endpoint=self.tenant.endpoints.s3_url,
            access_key_id=who.access_key_id,
            secret_access_key=who.secret_access_key,
        )
        janitor = Lake(janitor_config(self.lake.config, store, instance="j-test"))
        try:
            clean(janitor, after_s=30.0)
        finally:
            janitor.close()

    def _next(self) -> Load | Removal:
        fate = self._dice.random()
        if fate < 0.05 and self.contents.keys:
            key = self._dice.choice(self._names)
            self.contents.take(key)
            return Removal(stream=STREAM, partition=PARTITION, bucket=BUCKET, key=key, found_by="test")
        key = self._dice.choice(self._names) if fate < 0.15 and self._names else self._new_name()
        ids = range(self._ids, self._ids + ROWS)
        self._ids += ROWS
        self.contents.put(key, ids)
        file = write_items(self.folder / f"{self._ids}.parquet", ids)
        load = load_of_items(file, key)
        return replace(load, version=replace(load.version, bucket=BUCKET, etag=f"{self._ids}"))

    def _new_name(self) -> str:
        self._names.append(f"raw/probe/items/year=2026/month=05/day=16/{len(self._names):08}.parquet")
        return self._names[-1]


@pytest.fixture
def aged(stack: Stack, tmp_path: Path) -> Iterator[Aged]:
    """A lake of its own."""
    aged = Aged(stack.tenant(f"t{uuid.uuid4().hex[:12]}"), tmp_path)
    yield aged
    aged.lake.close()


@pytest.mark.timeout(7200)
def test_a_lake_of_many_commits(aged: Aged, stack: Stack, tmp_path: Path, bench_scale: float) -> None:
    commits = scaled(COMMITS, bench_scale, least=200)
    lines: list[dict[str, float]] = []
    for number in range(1, commits + 1):
        aged.live()
        if not number % (commits // CHECKPOINTS):
            lines.append(checkpoint(aged, commits // CHECKPOINTS))
            say(json.dumps(lines[-1]))
    say_table(
        list(lines[0]),
        [[shown(value, digits=1 if value < 100 else 0) for value in each.values()] for each in lines],
    )
    assert_right(aged)
    assert_small(aged)
    compare(aged, stack, tmp_path)


def checkpoint(aged: Aged, commits: int) -> dict[str, float]:
    """How the lake is now; times are of the commits since the last checkpoint."""
    health = look(aged.lake.config.catalog, POLICY.tiers)
    return {
        "commits": aged.commits,
        "commit ms": round(1000 * statistics.median(aged.commit_s[-commits:]), 1),
        "maintenance s": round(aged.maintenance_s, 1),
        "steps": len(aged.heard.steps),
        "staging files": sum(t.files for t in health.tables if t.schema == "staging"),
        "ledger files": sum(t.files for t in health.tables if t.table == "feeder_files"),
        "snapshots": health.snapshots,
        "catalog rows": catalog_rows(aged.lake.config.catalog),
        "objects": lake_objects(aged.lake),
        "RSS MiB": round(psutil.Process().memory_info().rss / 2**20),
    }


def assert_right(aged: Aged) -> None:
    """Every row, now and at each snapshot that is kept."""
    found = {
        key: (rows, int(total))
        for key, rows, total in aged.lake.query(
            f"SELECT _source_file, count(*), sum(id) FROM {ITEMS} GROUP BY _source_file"
        )
    }
    assert found == {key: (len(ids), sum(ids)) for key, ids in aged.contents.keys.items()}
    kept = {
        number for (number,) in aged.lake.query("SELECT snapshot_id FROM ducklake_snapshots('lakehouse')")
    }
    travelled = sorted(kept & aged.contents.at.keys())
    for snapshot in travelled[:: max(1, len(travelled) // 50)]:
        [(rows, total)] = aged.lake.query(f"SELECT count(*), sum(id) FROM {ITEMS} AT (VERSION => {snapshot})")
        assert (rows, int(total or 0)) == aged.contents.at[snapshot], snapshot
    say(f"every row is right, now and at {len(travelled)} snapshots, of which 50 were read")


def assert_small(aged: Aged) -> None:
    """Files are bounded by bytes: full ones, and less than a merge's worth in each tier, seen every 32 commits."""
    for table in look(aged.lake.config.catalog, POLICY.tiers).tables:
        if table.table not in LIVE_FEWS:
            full = 2 * table.bytes / POLICY.target_bytes
            tiers = len(POLICY.tiers) + 1  # files with deletions are one more
            assert table.files <= full + tiers * 2 * POLICY.files_a_merge, table


def compare(aged: Aged, stack: Stack, folder: Path) -> None:
    """Times of the old lake against those of what was just made."""
    aged.lake.query(f"CREATE TABLE main.fresh AS FROM {ITEMS}")
    key = sorted(aged.contents.keys)[len(aged.contents.keys) // 2]
    queries: dict[str, Callable[[str], object]] = {
        "count(*)": lambda table: aged.lake.query(f"SELECT count(*) FROM {table}"),
        "rows of a key": lambda table: aged.lake.query(
            f"SELECT * FROM {table} WHERE _source_file = ?", (key,)
        ),
    }
    rows: list[list[str]] = []
    for name, query in queries.items():
        old, new = in_turns(lambda query=query: query(ITEMS), lambda query=query: query("main.fresh"), LOOKS)
        rows.append(
            [name, shown(old, digits=1), shown(new, digits=1), shown(ratio(old, new), digits=2), "1.5"]
        )
    other = Aged(stack.tenant(f"t{uuid.uuid4().hex[:12]}"), folder)
    try:
        old, new = in_turns(aged.commit, other.commit, PAIRS)
        rows.append(
            ["a commit", shown(old, digits=1), shown(new, digits=1), shown(ratio(old, new), digits=2), "1.2"]
        )
    finally:
        other.lake.close()
    say_table(["", "old lake, ms", "new, ms", "ratio", "aim"], rows)


def in_turns(old: Callable[[], object], new: Callable[[], object], times: int) -> tuple[float, float]:
    """The median milliseconds of both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(times + 3):
        for side, call in enumerate((old, new)):
            started = time.perf_counter()
            call()
            if number >= 3:
                taken[side].append(1000 * (time.perf_counter() - started))
    return statistics.median(taken[0]), statistics.median(taken[1])
