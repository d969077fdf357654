"""Removes from the bucket what the catalog needs no more; the only place where lake files are deleted.

As the janitor, an identity of its own in a DuckDB instance of its own, beside the writer: a cleanup makes no snapshot
and touches no row that a commit touches (tests/integration/test_janitor.py). An error in its midst, as of an object
store that fails, leaves files on the catalog's list; the next cleanup removes them, and those that are gone already
count as removed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg

from feeders.catalog import APPLICATION_PREFIX
from feeders.errors import LakeUnavailable
from feeders.health import removable_until
from feeders.lake import Lake, LakeConfig, ObjectStore

FILES_A_STEP = 1000
MEMORY_BYTES = 128 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """How many files were removed, and in how many steps."""

    files: int
    steps: int


def janitor_config(config: LakeConfig, store: ObjectStore, *, instance: str) -> LakeConfig:
    """How the janitor opens the lake: with its own identity, and little memory."""
    memory = min(config.memory_limit_bytes, MEMORY_BYTES)
    return replace(
        config, store=store, instance=instance, may_create=False, memory_limit_bytes=memory, threads=1
    )


def clean(lake: Lake, *, after_s: float, may_go_on: Callable[[], bool] = lambda: True) -> Cleaned:
    """Removes files that no snapshot has needed for `after_s` seconds, in steps of some 1,000.

    Args:
        lake: opened as the janitor.
        after_s: who reads the lake at an expired snapshot still finds its files for so long, and so does a restore
            of the catalog from a dump that is not older.
        may_go_on: asked before each step.

    Raises:
        LakeError: a step failed; what is left waits for the next time.
    """
    catalog, older_than = lake.config.catalog, datetime.now(UTC) - timedelta(seconds=after_s)
    files = steps = 0
    while may_go_on():
        try:
            with catalog.connect(application=f"{APPLICATION_PREFIX}health") as connection:
                until = removable_until(connection, catalog, older_than=older_than, most=FILES_A_STEP)
        except psycopg.Error as error:
            raise LakeUnavailable("postgresql", f"the files to remove can't be read: {error}") from error
        if until is None:
            break
        [(removed,)] = lake.query(
            "SELECT count(*) FROM ducklake_cleanup_old_files('lakehouse', older_than => ?)",
            (until + timedelta(microseconds=1),),
        )
        files, steps = files + removed, steps + 1
        if not removed:
            break
    return Cleaned(files=files, steps=steps)


def find_orphans(lake: Lake, *, older_than_s: float) -> list[str]:
    """Finds files below the lake's path that the catalog does not know: failed transactions leave them.

    Younger ones may belong to a transaction in flight. A catalog that was restored from a dump does not know the files
    that were written since, so nothing but a person's word removes them (`remove_orphans`).

    Raises:
        LakeError: the listing failed.
    """
    rows = lake.query(
        "SELECT path FROM ducklake_delete_orphaned_files('lakehouse', dry_run => true, older_than => ?) ORDER BY path",
        (datetime.now(UTC) - timedelta(seconds=older_than_s),),
    )
    return [path for (path,) in rows]


def remove_orphans(lake: Lake, *, older_than_s: float) -> int:
    """Removes what `find_orphans` finds; returns how many files. Raises LakeError."""
    [(removed,)] = lake.query(
        "SELECT count(*) FROM ducklake_delete_orphaned_files('lakehouse', older_than => ?)",
        (datetime.now(UTC) - timedelta(seconds=older_than_s),),
    )
    return int(removed)
