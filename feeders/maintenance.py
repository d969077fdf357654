"""Keeps a lake small: merges small files, rewrites deleted rows away and expires old snapshots, step by step.

DuckLake does none of it by itself. Each commit leaves a small file in every table it touches, a dead file of the
cursors and a snapshot; commits and reads get dearer with them (docs/performance.md). Each step is one fenced
transaction that writes at most one file of the target size or so, so that a new key can go between two of them.
Nothing is removed from the bucket here: steps only note in the catalog which files nobody needs any more, and the
janitor removes those later (feeders.janitor).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import psycopg

from feeders.catalog import APPLICATION_PREFIX
from feeders.epoch import Epoch, require_epoch
from feeders.errors import LakeUnavailable
from feeders.health import LakeHealth, TableHealth, deletion_threshold, expirable, read
from feeders.lake import Lake, LakeConflict
from feeders.reader import Queryable

LIVE_FEWS = ("feeder_cursors", "feeder_pauses", "transform_cursors", "writer_epoch", "lotus_lake")
"""Tables of some live rows that are replaced again and again: what they leave is dead, and goes by an expiry."""
EXPIRED_A_STEP = 1000
MAX_CONFLICTS = 20


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When something is to be done.

    Attributes:
        target_bytes: the size of file that small ones are merged towards.
        files_a_merge: so many small files of a tier are merged. The tiers keep a row from being written again with
            each merge: it goes from one to the next, and is written as often as there are tiers.
        rewrite_share: a table of whose rows so many are deleted is rewritten, if they are `rewrite_rows` or more.
        rewrite_rows: see `rewrite_share`.
        rewrite_files: a table of which so many files have deletions is rewritten too: a deletion of keys of any age
            writes a file anew for each of them. Files of the target size at most are taken at a time.
        keep_all_s: every snapshot is kept so long: who reads the lake has so much time for a query.
        retention_s: and then the last one of each hour for so long. The newest, and one that a model stands at, always.
        expire_at_least: fewer snapshots than this are not worth a step.
    """

    target_bytes: int = 32 * 1024**2
    files_a_merge: int = 32
    rewrite_share: float = 0.25
    rewrite_rows: int = 1000
    rewrite_files: int = 8
    keep_all_s: float = 600.0
    retention_s: float = 7 * 86400.0
    expire_at_least: int = 64

    @property
    def tiers(self) -> tuple[int, ...]:
        """Upper bounds of the sizes of small files, by tier."""
        return self.target_bytes // 256, self.target_bytes // 16, self.target_bytes


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Small files of one tier of this table become one."""

    schema: str
    table: str
    tier: int

    def __str__(self) -> str:
        return f"merge {self.schema}.{self.table}"


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """Files of this table are written anew without their deleted rows, those with the greatest share first."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"rewrite {self.schema}.{self.table}"


@dataclass(frozen=True, kw_only=True)
class Expire:
    """These snapshots go. Time travel to them ends."""

    snapshots: tuple[int, ...]

    def __str__(self) -> str:
        return f"expire {len(self.snapshots)} snapshots"


Step = Merge | Rewrite | Expire


@dataclass(frozen=True, kw_only=True)
class Count:
    """What a step makes fewer: files of its table and their bytes, or snapshots of the lake."""

    number: int
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Done:
    """A step that was taken; `seconds` is its transaction's time."""

    step: Step
    before: Count
    after: Count
    seconds: float

    @property
    def was_useful(self) -> bool:
        """Says whether it made anything fewer."""
        return self.after.number < self.before.number or self.after.bytes < self.before.bytes


def look_and_plan(
    lake: Lake, policy: Policy, *, expire_at_least: int | None = None
) -> tuple[LakeHealth, list[Step]]:
    """Reads the lake's health, and says what is to be done now.

    Args:
        lake: whose catalog and model cursors are read.
        policy: when something is to be done.
        expire_at_least: instead of the policy's.

    Raises:
        LakeUnavailable: the catalog did not answer.
    """
    catalog = lake.config.catalog
    in_use = {
        snapshot
        for (snapshot,) in lake.query(
            "SELECT DISTINCT snapshot_id FROM meta.transform_cursors WHERE snapshot_id IS NOT NULL"
        )
    }
    try:
        with catalog.connect(application=f"{APPLICATION_PREFIX}health") as connection:
            health = read(connection, catalog, policy.tiers)
            past = expirable(
                connection,
                catalog,
                keep_all_s=policy.keep_all_s,
                retention_s=policy.retention_s,
                most=EXPIRED_A_STEP + len(in_use),
            )
    except psycopg.Error as error:
        raise LakeUnavailable("postgresql", f"the lake's health can't be read: {error}") from error
    # The snapshot that a model's cursor names is kept itself: without it deletions are missing from the change feed
    # that begins there, without an error (tests/integration/test_foundation_change_feed.py).
    snapshots = tuple(snapshot for snapshot in past if snapshot not in in_use)
    enough = policy.expire_at_least if expire_at_least is None else expire_at_least
    return health, [*plan_expiry(snapshots, enough), *plan_tables(health.tables, policy)]


def plan_expiry(snapshots: Sequence[int], enough: int) -> list[Step]:
    """The step that expires these snapshots, the oldest first, if they are enough. Pure."""
    return [Expire(snapshots=tuple(snapshots[:EXPIRED_A_STEP]))] if len(snapshots) >= max(1, enough) else []


def plan_tables(tables: Sequence[TableHealth], policy: Policy) -> list[Step]:
    """What these tables need, meta first, since every commit reads the ledger. Pure."""
    steps: list[Step] = []
    for health in sorted(tables, key=lambda each: (each.schema != "meta", each.schema, each.table)):
        if health.table in LIVE_FEWS:
            continue
        # Files with deletions are not merged, so many small ones would stay.
        deleted = health.deleted_rows
        is_much = deleted >= max(policy.rewrite_rows, policy.rewrite_share * (health.rows + deleted))
        if is_much or health.files_with_deletes >= min(policy.rewrite_files, policy.files_a_merge):
            steps.append(Rewrite(schema=health.schema, table=health.table))
        steps += [
            Merge(schema=health.schema, table=health.table, tier=tier)
            for tier, files in enumerate(health.small_by_tier)
            if files >= policy.files_a_merge
        ]
    return steps


def prepare(lake: Lake, policy: Policy) -> None:
    """Sets the size that DuckLake writes files of, where it is another one."""
    wanted = policy.target_bytes // 1024 * 1024
    rows = lake.query(
        "SELECT value FROM ducklake_options('lakehouse') WHERE option_name = 'target_file_size' AND scope = 'GLOBAL'"
    )
    if [value for (value,) in rows] != [str(wanted)]:
        lake.query("CALL lakehouse.set_option('target_file_size', ?)", (f"{wanted // 1024}KiB",))


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
    return Done(step=step, before=before, after=measure(lake, step), seconds=seconds)


def _without_conflict(lake: Lake, step: Step, policy: Policy, epoch: Epoch | None) -> Count:
    """Commits the step; returns what was there before."""
    for attempt in range(1, MAX_CONFLICTS + 1):
        try:
            with lake.transaction(str(step)) as transaction:
                if epoch is not None:
                    require_epoch(transaction, epoch)
                before = measure(transaction, step)
                take(transaction, step, policy, threshold=_threshold(lake, step, policy))
        except LakeConflict:
            if attempt == MAX_CONFLICTS:
                raise
        else:
            return before
    raise AssertionError("unreachable")


def _threshold(lake: Lake, step: Step, policy: Policy) -> float:
    """The share of deleted rows from which on a rewrite takes files."""
    if not isinstance(step, Rewrite):
        return 1.0
    catalog = lake.config.catalog
    try:
        with catalog.connect(application=f"{APPLICATION_PREFIX}health") as connection:
            return deletion_threshold(
                connection, catalog, schema=step.schema, table=step.table, step_bytes=policy.target_bytes
            )
    except psycopg.Error as error:
        raise LakeUnavailable("postgresql", f"the lake's health can't be read: {error}") from error


def take(transaction: Queryable, step: Step, policy: Policy, *, threshold: float) -> None:
    """Runs a step's statement."""
    match step:
        case Merge(schema=schema, table=table, tier=tier):
            least, most = (0, *policy.tiers)[tier], policy.tiers[tier]
            # One file of the target size at most comes of it: a key that lands meanwhile waits for that long.
            transaction.query(
                "CALL ducklake_merge_adjacent_files('lakehouse', ?, schema => ?, min_file_size => ?,"
                " max_file_size => ?, max_compacted_files => 1)",
                (table, schema, least, most),
            )
        case Rewrite(schema=schema, table=table):
            transaction.query(
                "CALL ducklake_rewrite_data_files('lakehouse', ?, schema => ?, delete_threshold => ?)",
                # DuckLake takes those above it.
                (table, schema, max(0.0, threshold - 1e-9)),
            )
        case Expire(snapshots=snapshots):
            transaction.query(
                "SELECT count(*) FROM ducklake_expire_snapshots('lakehouse', versions => ?)",
                (list(snapshots),),
            )
        case _:
            assert_never(step)


def measure(lake: Queryable, step: Step) -> Count:
    """Counts what a step makes fewer: the table's files, those with deletions twice, or the snapshots."""
    match step:
        case Merge(schema=schema, table=table) | Rewrite(schema=schema, table=table):
            [(files, size)] = lake.query(
                "SELECT count(*) + count(delete_file), coalesce(sum(data_file_size_bytes), 0)::BIGINT"
                " + coalesce(sum(delete_file_size_bytes), 0)::BIGINT"
                " FROM ducklake_list_files('lakehouse', ?, schema => ?)",
                (table, schema),
            )
            return Count(number=files, bytes=size)
        case Expire():
            return Count(number=int(lake.query("SELECT count(*) FROM ducklake_snapshots('lakehouse')")[0][0]))
        case _:
            assert_never(step)


def maintain_now(lake: Lake, policy: Policy) -> Sequence[Done]:
    """Takes all steps that are due, by hand: each may meet the writer's commits, and is tried again.

    A table is merged until a step makes nothing fewer: files of different schema versions stay apart.
    """
    prepare(lake, policy)
    done: list[Done] = []
    finished: set[Step] = set()
    while steps := [s for s in look_and_plan(lake, policy, expire_at_least=1)[1] if s not in finished]:
        result = run_step(lake, steps[0], policy, epoch=None)
        done.append(result)
        if not result.was_useful:
            finished.add(steps[0])
    return done
