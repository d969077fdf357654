"""What makes a commit dearer as a lake ages: an old lake and a new one, commit by commit in turn.

Taking turns cancels what else the machine does: the ratio is the figure. The old lake is aged in its catalog, by
copying there what one commit leaves: a dead file of the cursors, live files of the ledger and of staging, a
snapshot. Then what maintenance takes away is taken away step by step.
"""

import statistics
import sys
import uuid
from pathlib import Path
from typing import LiteralString

import pytest
from psycopg import sql

from consumer.embedded.stack import Stack
from tests.benchmarks.committing import CommittingLake, Cost

pytestmark = pytest.mark.bench
COMMITS = 40
FIRST_COPY = 10_000_000
INDEXES: tuple[LiteralString, ...] = (
    "CREATE INDEX ON ducklake_data_file (table_id, begin_snapshot)",
    "CREATE INDEX ON ducklake_delete_file (table_id, begin_snapshot)",
    "CREATE INDEX ON ducklake_file_column_stats (table_id, column_id)",
)
_DEAD_STATISTICS: LiteralString = (
    "DELETE FROM ducklake_file_column_stats AS stats USING ducklake_data_file AS file"
    " WHERE stats.data_file_id = file.data_file_id AND file.end_snapshot IS NOT NULL"
)
DEAD_FILES: tuple[LiteralString, ...] = (
    _DEAD_STATISTICS,
    "DELETE FROM ducklake_data_file WHERE end_snapshot IS NOT NULL",
)
SNAPSHOTS: tuple[LiteralString, ...] = (
    "DELETE FROM ducklake_snapshot WHERE snapshot_id < 0",
    "DELETE FROM ducklake_snapshot_changes WHERE snapshot_id < 0",
)


class AgingLake(CommittingLake):
    """A lake, and SQL on its catalog."""

    def commit_new(self) -> Cost:
        """One file under a key that is looked up in the ledger."""
        return self.commit(f"raw/probe/items/{uuid.uuid4().hex}.parquet")

    def run(self, *statements: LiteralString) -> None:
        """Changes the catalog behind DuckLake's back, and lets PostgreSQL plan anew."""
        with self.lake.config.catalog.connect(application="bench") as connection:
            for statement in (*statements, "VACUUM ANALYZE"):
                connection.execute(statement)

    def one(self, statement: sql.Composed) -> int:
        """A number from the catalog."""
        with self.lake.config.catalog.connect(application="bench") as connection:
            row = connection.execute(statement).fetchone()
        assert row is not None
        return int(row[0])

    def age(self, commits: int) -> None:
        """Leaves in the catalog what so many commits would have left."""
        for table, dead in (("feeder_cursors", True), ("feeder_files", False), ("stg_probe__items", False)):
            self._copy_files(table, commits, dead=dead)
        for name in ("ducklake_snapshot", "ducklake_snapshot_changes"):
            lowest = self.one(
                sql.SQL("SELECT least(min(snapshot_id), 0) FROM {}").format(sql.Identifier(name))
            )
            newest = sql.SQL("snapshot_id = (SELECT max(snapshot_id) FROM {})").format(sql.Identifier(name))
            self._copy_rows(name, newest, commits, snapshot_id=sql.SQL("{} - i").format(sql.Literal(lowest)))
        self.run()

    def _copy_files(self, table: str, copies: int, *, dead: bool) -> None:
        table_id = self._table_id(table)
        newest = self.one(
            sql.SQL(
                "SELECT max(data_file_id) FROM ducklake_data_file WHERE table_id = {} AND data_file_id < {}"
                " AND (end_snapshot IS NOT NULL) = {}"
            ).format(sql.Literal(table_id), sql.Literal(FIRST_COPY), sql.Literal(dead))
        )
        first = self.one(
            sql.SQL("SELECT greatest(max(data_file_id), {}) FROM ducklake_data_file").format(
                sql.Literal(FIRST_COPY)
            )
        )
        key_id = self.one(
            sql.SQL(
                "SELECT coalesce(max(column_id), -1) FROM ducklake_column WHERE table_id = {} AND column_name = 'key'"
            ).format(sql.Literal(table_id))
        )
        # Each of the ledger's files has a key of its own, and its statistics say which.
        key = "CASE WHEN column_id = {} THEN 'raw/probe/items/' || md5(i::text) || '.parquet' ELSE {} END"
        statistic = {
            name: sql.SQL(key).format(sql.Literal(key_id), sql.Identifier(name))
            for name in ("min_value", "max_value")
        }
        this = sql.SQL("data_file_id = {}").format(sql.Literal(newest))
        number = sql.SQL("{} + i").format(sql.Literal(first))
        self._copy_rows("ducklake_data_file", this, copies, data_file_id=number)
        self._copy_rows("ducklake_file_column_stats", this, copies, data_file_id=number, **statistic)

    def _copy_rows(self, table: str, which: sql.Composable, copies: int, **changed: sql.Composable) -> None:
        with self.lake.config.catalog.connect(application="bench") as connection:
            names = connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position",
                (table,),
            ).fetchall()
            values = sql.SQL(", ").join(changed.get(name, sql.Identifier(name)) for (name,) in names)
            connection.execute(
                sql.SQL("INSERT INTO {0} SELECT {1} FROM {0}, generate_series(1, {2}) AS i WHERE {3}").format(
                    sql.Identifier(table), values, sql.Literal(copies), which
                )
            )

    def _table_id(self, table: str) -> int:
        return self.one(
            sql.SQL("SELECT table_id FROM ducklake_table WHERE table_name = {}").format(sql.Literal(table))
        )

    def merge(self, table: str) -> None:
        """Takes the copied files of one table away, as if they had been merged into one."""
        with self.lake.config.catalog.connect(application="bench") as connection:
            for name in ("ducklake_file_column_stats", "ducklake_data_file"):
                connection.execute(
                    sql.SQL("DELETE FROM {} WHERE table_id = {} AND data_file_id > {}").format(
                        sql.Identifier(name), sql.Literal(self._table_id(table)), sql.Literal(FIRST_COPY)
                    )
                )
        self.run()


def test_what_makes_commits_dearer(stack: Stack, tmp_path: Path) -> None:
    old, new = AgingLake(stack, tmp_path), AgingLake(stack, tmp_path)
    for _ in range(10):
        old.commit_new()
        new.commit_new()

    def measure(what: str) -> None:
        pairs = [(old.commit_new(), new.commit_new()) for _ in range(COMMITS)]
        wall, reference = (statistics.median(pair[side].wall_ms for pair in pairs) for side in (0, 1))
        cpu, cpu_reference = (statistics.median(pair[side].cpu_ms for pair in pairs) for side in (0, 1))
        sys.stdout.write(
            f"\n| {what} | {wall:.0f} | {reference:.0f} | {wall / reference:.2f} | {cpu / cpu_reference:.2f} |"
        )
        sys.stdout.flush()

    measure("both new")
    old.age(1_000)
    measure("1,000 commits old")
    old.age(4_000)
    measure("5,000")
    old.run(*INDEXES)
    measure("5,000, indexes on the catalog's tables")
    old.age(15_000)
    measure("20,000, indexes")
    old.run(*DEAD_FILES)
    measure("… and dead files gone (an expiry does that)")
    old.run(*SNAPSHOTS)
    measure("… and old snapshots gone (so does it)")
    old.merge("feeder_files")
    measure("… and the ledger's files merged")
    old.merge("stg_probe__items")
    measure("… and staging's files merged")
    sys.stdout.write("\n")
    old.lake.close()
    new.lake.close()
