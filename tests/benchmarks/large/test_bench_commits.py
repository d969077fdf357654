"""5,000 commits of one small file each: does a commit stay as cheap as the first?

Prints one row of docs/performance.md's table for each variant. A commit is the service's own transaction: epoch,
cursor and ledger read, 20 rows of a narrow stream inserted, ledger row, cursor replaced. The keys come in no
order, as in Airbyte's Hive layout, so almost every one is looked up in the ledger.
"""

import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import psutil
import pytest
from psycopg import sql

from consumer.embedded.identity import Tenant
from feeders.append import apply_batch
from feeders.epoch import Epoch
from feeders.lake import Lake
from feeders.ledger import LedgerClock
from feeders.work import Load, Outcome
from tests.benchmarks.counting import catalog_rows, lake_objects
from tests.lakes import lake_config
from tests.probes import ITEMS, load_of_items, start, write_items

pytestmark = pytest.mark.bench
WINDOW = 100
LEDGER, CURSORS = "meta.feeder_files", "meta.feeder_cursors"
INDEXES: tuple[LiteralString, ...] = (
    "CREATE INDEX ON ducklake_data_file (table_id, begin_snapshot)",
    "CREATE INDEX ON ducklake_delete_file (table_id, begin_snapshot)",
    "CREATE INDEX ON ducklake_file_column_stats (table_id, column_id)",
    "CREATE INDEX ON ducklake_table_column_stats (table_id)",
    "CREATE INDEX ON ducklake_snapshot_changes (commit_extra_info)",
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is done beside the commits; 0 is never."""

    name: str
    commits: int
    merge_every: int = 0
    expire_every: int = 0
    inline_ledger: bool = False
    indexes: bool = False

    @property
    def text(self) -> str:
        """The variant in words."""
        parts = [
            f"merge every {self.merge_every}" if self.merge_every else "",
            f"expire every {self.expire_every}" if self.expire_every else "",
            "ledger inlined" if self.inline_ledger else "",
            "indexes" if self.indexes else "",
        ]
        return ", ".join(part for part in parts if part) or "nothing"


VARIANTS = (
    Variant(name="nothing", commits=5000),
    Variant(name="merge", commits=1500, merge_every=100),
    Variant(name="expire", commits=1500, expire_every=100),
    Variant(name="merge_expire", commits=5000, merge_every=100, expire_every=100),
    Variant(name="inline", commits=1500, expire_every=100, inline_ledger=True),
    Variant(name="indexes", commits=1500, indexes=True),
)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One commit, in seconds: in all, of which COMMIT; and the processor time of this process."""

    total_s: float
    commit_s: float
    cpu_s: float


class Bench:
    """A lake, one file's content, and the loads that are made of it under new keys."""

    def __init__(self, tenant: Tenant, variant: Variant, folder: Path) -> None:
        self.variant = variant
        self.lake: Lake = Lake(lake_config(tenant))
        self.epoch: Epoch = start(self.lake, instance="w-test")
        self.clock = LedgerClock()
        file = write_items(folder / "items.parquet", range(20))
        self.file = load_of_items(file, "raw/probe/items/year=2026/month=05/day=16/x.parquet")
        self.maintenance_s: list[float] = []
        if variant.inline_ledger:
            self.lake.query(
                "CALL lakehouse.set_option('data_inlining_row_limit', 10,"
                " schema => 'meta', table_name => 'feeder_files')"
            )
        if variant.indexes:
            with self.lake.config.catalog.connect(application="bench") as connection:
                for statement in INDEXES:
                    connection.execute(sql.SQL(statement))

    def loads(self) -> Iterator[Load]:
        """Loads with keys in no order, as Airbyte's Hive layout has them."""
        dice = random.Random(1)
        place = self.file.version.key.rpartition("/")[0]
        while True:
            key = f"{place}/{UUID(int=dice.getrandbits(128))}.parquet"
            yield replace(self.file, version=replace(self.file.version, key=key))

    def run(self) -> list[Timing]:
        """Makes all commits of the variant."""
        timings: list[Timing] = []
        for number, load in zip(range(1, self.variant.commits + 1), self.loads(), strict=False):
            timings.append(self.commit(load))
            if self.variant.merge_every and number % self.variant.merge_every == 0:
                self.maintain("merge")
            if self.variant.expire_every and number % self.variant.expire_every == 0:
                self.maintain("expire")
            if number in (WINDOW, 500) or number % 1000 == 0:
                say(
                    f"\n  {self.variant.name} | {number} | {milliseconds(timings[-WINDOW:])} | {self.sizes()}"
                )
        return timings

    def commit(self, load: Load) -> Timing:
        """One file, in one transaction, as the writer does it."""
        started, cpu = time.perf_counter(), time.process_time()
        with self.lake.transaction("1 items") as transaction:
            [applied] = apply_batch(
                transaction, [load], epoch=self.epoch, clock=self.clock, open_failures=set()
            )
            worked = time.perf_counter()
        assert applied.outcome is Outcome.LOADED
        ended = time.perf_counter()
        return Timing(total_s=ended - started, commit_s=ended - worked, cpu_s=time.process_time() - cpu)

    def maintain(self, what: str) -> None:
        """Merges the small files of the tables that grow, or expires all snapshots but the last."""
        started = time.perf_counter()
        if what == "merge":
            for table in (LEDGER, CURSORS, ITEMS):
                schema, _, name = table.partition(".")
                self.lake.query(
                    "CALL ducklake_merge_adjacent_files('lakehouse', ?, schema => ?)", (name, schema)
                )
        else:
            # Counted, since DuckDB's Python client needs pytz to fetch a timestamp with time zone.
            self.lake.query(
                "SELECT count(*) FROM ducklake_expire_snapshots('lakehouse', older_than => now())"
            )
        self.maintenance_s.append(time.perf_counter() - started)

    def sizes(self) -> str:
        """Objects, catalog rows, RSS."""
        return f"{lake_objects(self.lake):,} | {catalog_rows(self.lake.config.catalog):,} | {rss_mib()}"


def milliseconds(timings: Sequence[Timing]) -> str:
    """The medians of a window: in all, COMMIT, processor time."""
    total, commit, cpu = (
        statistics.median(1000 * value for value in values)
        for values in zip(*((each.total_s, each.commit_s, each.cpu_s) for each in timings), strict=True)
    )
    return f"{total:.0f} | {commit:.0f} | {cpu:.0f}"


def say(text: str) -> None:
    """Shows progress and results: `make bench` captures nothing."""
    sys.stdout.write(text)
    sys.stdout.flush()


def rss_mib() -> int:
    return psutil.Process().memory_info().rss // 1024**2


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_commits_stay_as_cheap_as_the_first(tenant: Tenant, tmp_path: Path, variant: Variant) -> None:
    bench = Bench(tenant, variant, tmp_path)
    before = rss_mib()
    started = time.perf_counter()
    timings = bench.run()
    total_s = time.perf_counter() - started
    maintenance = f"{1000 * statistics.median(bench.maintenance_s):.0f} ms" if bench.maintenance_s else "-"
    say(
        f"\n| {variant.text} | {variant.commits:,} | {milliseconds(timings[:WINDOW])}"
        f" | {milliseconds(timings[-WINDOW:])} | {maintenance} | {bench.sizes()} (at first {before})"
        f" | {total_s:.0f} |\n"
    )
    assert bench.lake.query(f"SELECT count(*) FROM {LEDGER}") == [(variant.commits,)]
    bench.lake.close()
