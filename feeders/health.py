"""How healthy a lake is: the files of each table, the snapshots, and what waits to be removed.

Read from the catalog's own tables (https://ducklake.select/docs/stable/specification/tables/overview) in a few
queries, without DuckDB: it is asked after every few commits, and by people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from feeders.catalog import APPLICATION_PREFIX, Catalog, in_schema
from feeders.errors import LakeMisconfigured, LakeUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class TableHealth:
    """A table's live data files.

    Attributes:
        schema: of the table, as `table` without quotes.
        table: its name.
        files: live data files.
        bytes: their size.
        rows: the rows in them that are not deleted.
        small_by_tier: those below the target size that no delete file is about, by the tiers that were asked for.
        deleted_rows: rows in them that delete files take away.
        files_with_deletes: files that delete files are about: they are rewritten before they can be merged.
        oldest_snapshot: the first one that is kept since the table is there: time travel reads it from there on.
        oldest_snapshot_at: its time.
    """

    schema: str
    table: str
    files: int
    bytes: int
    rows: int
    small_by_tier: tuple[int, ...]
    deleted_rows: int
    files_with_deletes: int
    oldest_snapshot: int
    oldest_snapshot_at: datetime

    @property
    def small_files(self) -> int:
        """Files below the target size, without deletions."""
        return sum(self.small_by_tier)


@dataclass(frozen=True, kw_only=True)
class LakeHealth:
    """All tables by schema and name, the snapshots, and the files that wait for the janitor."""

    tables: tuple[TableHealth, ...]
    snapshots: int
    oldest_snapshot_at: datetime | None
    newest_snapshot_at: datetime | None
    removable_files: int
    removable_since: datetime | None


def look(catalog: Catalog, tiers: Sequence[int]) -> LakeHealth:
    """Reads the health of a lake.

    Args:
        catalog: where it is.
        tiers: upper bounds in bytes of the sizes by which small files are counted, ascending; the last is the target.

    Raises:
        LakeUnavailable: the catalog did not answer.
        LakeMisconfigured: the login was refused, or there is no lake.
    """
    try:
        with catalog.connect(application=f"{APPLICATION_PREFIX}health") as connection:
            return read(connection, catalog, tiers)
    except psycopg.errors.UndefinedTable as error:
        raise LakeMisconfigured(
            f"the catalog has no lake in schema {catalog.schema}",
            hint="`lotus-lake run` and `lotus-lake ddl apply` make it; if there is one, mend LOTUS_CATALOG_DATABASE"
            " and _SCHEMA",
        ) from error
    except psycopg.Error as error:
        raise LakeUnavailable("postgresql", f"the lake's health can't be read: {error}") from error


def read(connection: Connection, catalog: Catalog, tiers: Sequence[int]) -> LakeHealth:
    """Reads the health over an open connection. Raises psycopg.Error."""
    rows = connection.execute(in_schema(catalog, _TABLES), {"tiers": list(tiers)}).fetchall()
    [snapshots] = connection.execute(
        in_schema(
            catalog, "SELECT count(*), min(snapshot_time), max(snapshot_time) FROM {schema}.ducklake_snapshot"
        )
    ).fetchall()
    [waiting] = connection.execute(
        in_schema(
            catalog,
            "SELECT count(*), min(schedule_start) FROM {schema}.ducklake_files_scheduled_for_deletion",
        )
    ).fetchall()
    return LakeHealth(
        tables=tuple(
            TableHealth(
                schema=schema,
                table=table,
                files=files,
                bytes=int(size),
                rows=int(records - deleted),
                small_by_tier=tuple(by_tier),
                deleted_rows=int(deleted),
                files_with_deletes=with_deletes,
                oldest_snapshot=oldest,
                oldest_snapshot_at=oldest_at,
            )
            for schema, table, files, size, records, by_tier, deleted, with_deletes, oldest, oldest_at in rows
        ),
        snapshots=snapshots[0],
        oldest_snapshot_at=snapshots[1],
        newest_snapshot_at=snapshots[2],
        removable_files=waiting[0],
        removable_since=waiting[1],
    )


# width_bucket counts below its n-th bound; a file that reaches the last one is not small. The snapshot that made a
# table may be expired: the first that is kept after it is an index look-up, and the newest always is.
_TABLES = """
WITH live AS (
    SELECT file.table_id, file.file_size_bytes, file.record_count, coalesce(gone.delete_count, 0) AS deleted,
        gone.data_file_id IS NOT NULL AS has_deletes,
        width_bucket(file.file_size_bytes, %(tiers)s::bigint[]) AS tier
    FROM {schema}.ducklake_data_file AS file
    LEFT JOIN {schema}.ducklake_delete_file AS gone
        ON gone.data_file_id = file.data_file_id AND gone.end_snapshot IS NULL
    WHERE file.end_snapshot IS NULL
), counted AS (
    SELECT table_id, tier, count(*) AS files, sum(file_size_bytes) AS bytes, sum(record_count) AS records,
        sum(deleted) AS deleted, count(*) FILTER (WHERE has_deletes) AS with_deletes
    FROM live GROUP BY table_id, tier
)
SELECT schema_name, table_name, coalesce(sum(files), 0)::bigint, coalesce(sum(bytes), 0), coalesce(sum(records), 0),
    ARRAY(
        SELECT coalesce(sum(tiered.files - tiered.with_deletes), 0)::bigint
        FROM generate_series(0, cardinality(%(tiers)s::bigint[]) - 1) AS wanted
        LEFT JOIN counted AS tiered ON tiered.tier = wanted AND tiered.table_id = tab.table_id
        GROUP BY wanted ORDER BY wanted
    ),
    coalesce(sum(deleted), 0), coalesce(sum(with_deletes), 0)::bigint, oldest.snapshot_id, oldest.snapshot_time
FROM {schema}.ducklake_table AS tab
JOIN {schema}.ducklake_schema AS space ON space.schema_id = tab.schema_id AND space.end_snapshot IS NULL
LEFT JOIN counted ON counted.table_id = tab.table_id
CROSS JOIN LATERAL (
    SELECT snapshot_id, snapshot_time FROM {schema}.ducklake_snapshot
    WHERE snapshot_id >= tab.begin_snapshot ORDER BY snapshot_id LIMIT 1
) AS oldest
WHERE tab.end_snapshot IS NULL
GROUP BY tab.table_id, schema_name, table_name, oldest.snapshot_id, oldest.snapshot_time
ORDER BY schema_name, table_name
"""


def expirable(
    connection: Connection, catalog: Catalog, *, keep_all_s: float, retention_s: float, most: int
) -> tuple[int, ...]:
    """Finds snapshots that are past their time, the oldest first; the newest never is.

    All are kept for `keep_all_s` seconds, and then the last one of each hour for `retention_s`. Raises psycopg.Error.
    """
    rows = connection.execute(
        in_schema(
            catalog,
            """
            SELECT snapshot_id FROM (
                SELECT snapshot_id, snapshot_time, max(snapshot_id) OVER () AS newest,
                    max(snapshot_id) OVER (PARTITION BY date_trunc('hour', snapshot_time)) AS last_of_hour
                FROM {schema}.ducklake_snapshot
            ) AS snapshots
            WHERE snapshot_id <> newest AND snapshot_time < now() - make_interval(secs => %(keep_all_s)s)
                AND (snapshot_id <> last_of_hour OR snapshot_time < now() - make_interval(secs => %(retention_s)s))
            ORDER BY snapshot_id LIMIT %(most)s
            """,
        ),
        {"keep_all_s": min(keep_all_s, retention_s), "retention_s": retention_s, "most": most},
    ).fetchall()
    return tuple(snapshot for (snapshot,) in rows)


def deletion_threshold(
    connection: Connection, catalog: Catalog, *, schema: str, table: str, step_bytes: int
) -> float:
    """Finds the share of deleted rows from which on a table's files make up no more than a step.

    Files of one share stay together, so the first of them may be more. Raises psycopg.Error.
    """
    row = connection.execute(
        in_schema(
            catalog,
            """
            SELECT min(share) FROM (
                SELECT share, sum(file_size_bytes) OVER (ORDER BY share DESC) AS bytes, max(share) OVER () AS most
                FROM (
                    SELECT file.file_size_bytes,
                        gone.delete_count::double precision / greatest(file.record_count, 1) AS share
                    FROM {schema}.ducklake_data_file AS file
                    JOIN {schema}.ducklake_delete_file AS gone
                        ON gone.data_file_id = file.data_file_id AND gone.end_snapshot IS NULL
                    JOIN {schema}.ducklake_table AS tab
                        ON tab.table_id = file.table_id AND tab.end_snapshot IS NULL
                    JOIN {schema}.ducklake_schema AS space
                        ON space.schema_id = tab.schema_id AND space.end_snapshot IS NULL
                    WHERE file.end_snapshot IS NULL AND schema_name = %(schema)s AND table_name = %(table)s
                ) AS shares
            ) AS steps WHERE bytes <= %(step_bytes)s OR share = most
            """,
        ),
        {"schema": schema, "table": table, "step_bytes": step_bytes},
    ).fetchone()
    return float(row[0]) if row and row[0] is not None else 1.0


def removable_until(
    connection: Connection, catalog: Catalog, *, older_than: datetime, most: int
) -> datetime | None:
    """Finds the time up to which at most about `most` files wait for removal, none later than `older_than`.

    Files of one moment stay together. None if there are none. Raises psycopg.Error.
    """
    row = connection.execute(
        in_schema(
            catalog,
            """
            SELECT max(schedule_start) FROM (
                SELECT schedule_start FROM {schema}.ducklake_files_scheduled_for_deletion
                WHERE schedule_start < %s ORDER BY schedule_start LIMIT %s
            ) AS oldest
            """,
        ),
        (older_than, most),
    ).fetchone()
    return row[0] if row else None
