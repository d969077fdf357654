"""Keeps a lake small: merges small files and expires old snapshots, in steps that each are one fenced transaction.

DuckLake does neither by itself. Each commit leaves a small file in every table it touches, a dead file of the cursors
and a snapshot; commits and reads get dearer with them (docs/performance.md). Nothing is removed from the bucket here:
a merge and an expiry only note in the catalog which files nobody needs any more.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from feeders.epoch import Epoch, require_epoch
from feeders.lake import Lake, LakeConflict
from feeders.reader import Queryable

LIVE_FEWS = ("feeder_cursors", "transform_cursors", "writer_epoch", "lotus_lake")
"""Tables of some live rows that are replaced again and again: what they leave is dead, and goes by an expiry."""
EXPIRED_A_STEP = 1000
MAX_CONFLICTS = 20


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When something is to be done.

    Attributes:
        small_bytes: a file below this is small.
        small_files: a table with so many small files has them merged.
        retention_s: snapshots older than this are expired, but for the newest and those that a model stands at.
    """

    small_bytes: int = 8 * 1024**2
    small_files: int = 16
    retention_s: float = 7 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Small files of this table become one."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"merge {self.schema}.{self.table}"


@dataclass(frozen=True, kw_only=True)
class Expire:
    """These snapshots go. Time travel to them ends."""

    snapshots: tuple[int, ...]

    def __str__(self) -> str:
        return f"expire {len(self.snapshots)} snapshots"


Step = Merge | Expire


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a step did: files of the table, or snapshots of the lake, before and after."""

    step: Step
    before: int
    after: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TableHealth:
    """A table's live data files: how many, of how many bytes, and how many of them are small."""

    schema: str
    table: str
    files: int
    bytes: int
    small_files: int


def look_at_tables(lake: Queryable, policy: Policy) -> list[TableHealth]:
    """Counts the live data files of all tables, by schema and name."""
    tables = lake.query(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'lakehouse' ORDER BY ALL"
    )
    return [look_at_table(lake, schema, table, policy) for schema, table in tables]


def look_at_table(lake: Queryable, schema: str, table: str, policy: Policy) -> TableHealth:
    """Counts the live data files of a table."""
    [(files, size, small)] = lake.query(
        "SELECT count(*), coalesce(sum(data_file_size_bytes), 0)::BIGINT,"
        " count(*) FILTER (data_file_size_bytes < ?)"
        " FROM ducklake_list_files('lakehouse', ?, schema => ?)",
        (policy.small_bytes, table, schema),
    )
    return TableHealth(schema=schema, table=table, files=files, bytes=size, small_files=small)


def expirable(lake: Queryable, policy: Policy, *, most: int = EXPIRED_A_STEP) -> tuple[int, ...]:
    """Finds snapshots past their retention, the oldest first.

    The one that a model's cursor names is kept itself: without it deletions are missing from the change feed that
    begins there, without an error (tests/integration/test_foundation_change_feed.py).
    """
    rows = lake.query(
        "SELECT snapshot_id FROM ducklake_snapshots('lakehouse')"
        " WHERE snapshot_time < now() - to_seconds(?)"
        " AND snapshot_id < (SELECT max(snapshot_id) FROM ducklake_snapshots('lakehouse'))"
        " AND snapshot_id NOT IN (SELECT snapshot_id FROM meta.transform_cursors WHERE snapshot_id IS NOT NULL)"
        " ORDER BY snapshot_id LIMIT ?",
        (policy.retention_s, most),
    )
    return tuple(snapshot for (snapshot,) in rows)


def plan_steps(lake: Queryable, policy: Policy) -> list[Step]:
    """Says what is to be done now: the ledger first, since every commit reads it."""
    merges = [
        Merge(schema=health.schema, table=health.table)
        for health in look_at_tables(lake, policy)
        if health.small_files >= policy.small_files and health.table not in LIVE_FEWS
    ]
    merges.sort(key=lambda merge: (merge.schema != "meta", merge.schema, merge.table))
    snapshots = expirable(lake, policy)
    return [*([Expire(snapshots=snapshots)] if snapshots else []), *merges]


def run_step(lake: Lake, step: Step, policy: Policy, *, epoch: Epoch | None) -> Done:
    """Takes one step, in one transaction; tried again when it meets another commit.

    Args:
        lake: as the loader: nothing is removed from the bucket.
        step: what is to be done.
        policy: which files are small.
        epoch: the writer's term; None by hand, beside whoever writes.

    Raises:
        LakeFenced: another term has begun.
        LakeConflict: others were quicker, MAX_CONFLICTS times in a row.
        LakeUnavailable, StatementFailed: nothing was changed; of LakeUnavailable at COMMIT that is not certain, and
            does not matter.
    """
    started = time.monotonic()
    before = _without_conflict(lake, step, policy, epoch)
    seconds = time.monotonic() - started
    return Done(step=step, before=before, after=measure(lake, step, policy), seconds=seconds)


def _without_conflict(lake: Lake, step: Step, policy: Policy, epoch: Epoch | None) -> int:
    for attempt in range(1, MAX_CONFLICTS + 1):
        try:
            with lake.transaction(str(step)) as transaction:
                if epoch is not None:
                    require_epoch(transaction, epoch)
                before = measure(transaction, step, policy)
                take(transaction, step, policy)
        except LakeConflict:
            if attempt == MAX_CONFLICTS:
                raise
        else:
            return before
    raise AssertionError("unreachable")


def take(transaction: Queryable, step: Step, policy: Policy) -> None:
    """Runs a step's statement."""
    match step:
        case Merge(schema=schema, table=table):
            # One file at most comes of it: a key that lands meanwhile waits for that long.
            transaction.query(
                "CALL ducklake_merge_adjacent_files('lakehouse', ?, schema => ?, max_file_size => ?,"
                " max_compacted_files => 1)",
                (table, schema, policy.small_bytes),
            )
        case Expire(snapshots=snapshots):
            transaction.query(
                "SELECT count(*) FROM ducklake_expire_snapshots('lakehouse', versions => ?)",
                (list(snapshots),),
            )


def measure(lake: Queryable, step: Step, policy: Policy) -> int:
    """Counts what a step makes fewer: the table's files, or the snapshots."""
    match step:
        case Merge(schema=schema, table=table):
            return look_at_table(lake, schema, table, policy).files
        case Expire():
            return int(lake.query("SELECT count(*) FROM ducklake_snapshots('lakehouse')")[0][0])


def maintain_now(lake: Lake, policy: Policy) -> Sequence[Done]:
    """Takes all steps that are due, by hand: each may meet the writer's commits, and is tried again.

    A table is merged until a step makes its files no fewer: files of different schema versions stay apart.
    """
    done: list[Done] = []
    finished: set[Step] = set()
    while steps := [step for step in plan_steps(lake, policy) if step not in finished]:
        result = run_step(lake, steps[0], policy, epoch=None)
        done.append(result)
        if result.after >= result.before:
            finished.add(steps[0])
    return done
