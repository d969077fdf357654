"""Counts the rows of an old lake's table against the raw ids of the files in the bucket.

The facts lie in temporary tables of the lake's DuckDB, which spills them to disk: each raw id of the files that are
read, and each of the table with its row's number. Of a stream that agrees it is kept which row is of which file, for
`feeders.adopt` to write.
"""

import json
from collections.abc import Sequence

from feeders.adoption import Count, Left, ReadFile
from feeders.lake import StatementFailed
from feeders.old_lake import RAW_ID, SOURCE_FILE, OldTable, table_at
from feeders.reader import Queryable
from feeders.schema import SOURCE, LoadPlan
from feeders.types import quote_identifier


def begin_check(lake: Queryable) -> None:
    """Makes the tables of what is to be written, of all streams."""
    lake.query("CREATE OR REPLACE TEMP TABLE adopt_match (number INTEGER, place BIGINT)")
    lake.query(
        "CREATE OR REPLACE TEMP TABLE adopt_files"
        " (number INTEGER, key VARCHAR, year BIGINT, month VARCHAR, day VARCHAR)"
    )


def begin_stream(lake: Queryable, old: OldTable, snapshot: int) -> None:
    """Notes the rows of a stream's table."""
    lake.query("CREATE OR REPLACE TEMP TABLE adopt_ids (number INTEGER, raw_id VARCHAR)")
    lake.query("CREATE OR REPLACE TEMP TABLE adopt_staged (place BIGINT, raw_id VARCHAR, source VARCHAR)")
    if old.rows:
        source = quote_identifier(SOURCE_FILE) if old.has_source else "NULL"
        lake.query(
            f"INSERT INTO temp.adopt_staged SELECT rowid, {quote_identifier(RAW_ID)}, {source}"
            f" FROM {table_at(old.stream, snapshot)}"
        )


def end_stream(lake: Queryable) -> None:
    """Forgets a stream's raw ids."""
    lake.query("DROP TABLE IF EXISTS temp.adopt_ids")
    lake.query("DROP TABLE IF EXISTS temp.adopt_staged")


def note_ids(lake: Queryable, number: int, plan: LoadPlan) -> None:
    """Notes the raw ids of a file, read as the loader reads it.

    Raises:
        StatementFailed: the file can't be read, or gave another number of rows than its footer claims.
    """
    if not plan.rows:
        return
    raw_id = dict(plan.projection)[RAW_ID]
    [(noted,)] = lake.query(
        f"INSERT INTO temp.adopt_ids SELECT ?, ({raw_id})::VARCHAR FROM read_parquet(?,"
        f" hive_partitioning = false, union_by_name = false, binary_as_string = true) AS {SOURCE}",
        (number, str(plan.path)),
    )
    if noted != plan.rows:
        raise StatementFailed("RowCount", f"the file gave {noted} rows, its footer claims {plan.rows}")


def count_claims(lake: Queryable, files: Sequence[ReadFile]) -> dict[int, Count]:
    """Counts the rows of each file that was noted, by its number."""
    _note_files(lake, files)
    return {
        number: Count(no_id=no_id, shared=shared, there=there, doubled=doubled, elsewhere=elsewhere)
        for number, no_id, shared, there, doubled, elsewhere in lake.query(_CLAIMS)
    }


_CLAIMS = """
WITH shared AS (
    SELECT raw_id FROM temp.adopt_ids WHERE raw_id IS NOT NULL GROUP BY raw_id HAVING count(*) > 1
),

staged AS (
    SELECT raw_id, count(*) AS rows, min(source) AS source, max(source) AS last_source
    FROM temp.adopt_staged WHERE raw_id IS NOT NULL GROUP BY raw_id
)

SELECT
    i.number,
    count(*) FILTER (WHERE i.raw_id IS NULL),
    count(shared.raw_id),
    count(staged.raw_id),
    count(*) FILTER (WHERE staged.rows > 1),
    count(*) FILTER (WHERE staged.source <> f.key OR staged.last_source <> f.key)
FROM temp.adopt_ids AS i
JOIN temp.adopt_files AS f ON f.number = i.number
LEFT JOIN shared ON shared.raw_id = i.raw_id
LEFT JOIN staged ON staged.raw_id = i.raw_id
GROUP BY i.number
"""


def count_left(lake: Queryable) -> Left:
    """Counts the rows of the table that no file explains which was noted."""
    [(no_id, stray)] = lake.query(
        "SELECT count(*) FILTER (WHERE s.raw_id IS NULL), count(*) FILTER (WHERE s.raw_id IS NOT NULL)"
        " FROM temp.adopt_staged AS s ANTI JOIN temp.adopt_ids AS i ON i.raw_id = s.raw_id"
    )
    return Left(no_id=no_id, stray=stray)


def begin_beyond(lake: Queryable) -> None:
    """Keeps only those rows of the table that no file explains which was noted; files are noted anew."""
    lake.query(
        "CREATE OR REPLACE TEMP TABLE adopt_staged AS"
        " FROM temp.adopt_staged AS s ANTI JOIN temp.adopt_ids AS i ON i.raw_id = s.raw_id"
    )
    lake.query("DELETE FROM temp.adopt_ids")


def count_beyond(lake: Queryable) -> dict[int, int]:
    """Counts the rows of each file, by its number, that are among those which are left."""
    return dict(
        lake.query(
            "SELECT i.number, count(*) FROM temp.adopt_ids AS i"
            " SEMI JOIN temp.adopt_staged AS s ON s.raw_id = i.raw_id GROUP BY i.number"
        )
    )


def keep_match(lake: Queryable) -> int:
    """Keeps which row of the table is of which file; returns how many rows have one."""
    [(kept,)] = lake.query(
        "INSERT INTO temp.adopt_match SELECT i.number, s.place"
        " FROM temp.adopt_staged AS s JOIN temp.adopt_ids AS i ON i.raw_id = s.raw_id"
    )
    return int(kept)


def _note_files(lake: Queryable, files: Sequence[ReadFile]) -> None:
    documents = [
        {
            "number": file.number,
            "key": file.version.key,
            "year": file.partition.year,
            "month": file.partition.month,
            "day": file.partition.day,
        }
        for file in files
    ]
    # As text: to bind a list takes DuckDB's client up to 0.3 ms for each element.
    lake.query(
        f"INSERT INTO temp.adopt_files SELECT unnest(from_json(?, '{_FILES}'), recursive := true)",
        (json.dumps(documents),),
    )


_FILES = json.dumps(
    [{"number": "INTEGER", "key": "VARCHAR", "year": "BIGINT", "month": "VARCHAR", "day": "VARCHAR"}]
)
