"""Counts the rows of an old lake's table against the raw ids of the files in the bucket.

The facts lie in temporary tables of the lake's DuckDB, which spills them to disk: each raw id of the files that are
read, and each of the table with its row's number. Of a stream that agrees it is kept which row is of which file, for
`feeders.adopt` to write.
"""

import json
from collections.abc import Sequence

from feeders.adoption import Copies, Count, Left, ReadFile
from feeders.lake import StatementFailed
from feeders.old_lake import RAW_ID, SOURCE_FILE, OldTable, has_column, table_at
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
    lake.query(
        "CREATE OR REPLACE TEMP TABLE adopt_staged (place BIGINT, raw_id VARCHAR, source VARCHAR, day VARCHAR)"
    )
    if not old.rows:
        return
    source = quote_identifier(SOURCE_FILE) if has_column(old.columns or (), SOURCE_FILE) else "NULL"
    has_day = all(has_column(old.columns or (), name) for name in ("year", "month", "day"))
    day = "concat_ws('-', year, month, day)" if has_day else "NULL"
    lake.query(
        f"INSERT INTO temp.adopt_staged SELECT rowid, {quote_identifier(RAW_ID)}, {source}, {day}"
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


def count_files(lake: Queryable, files: Sequence[ReadFile]) -> dict[int, Count]:
    """Counts the rows of each file that was noted, by its number."""
    _note_files(lake, files)
    return {
        number: Count(no_id=no_id, sole=sole, sole_there=sole_there, there=there)
        for number, no_id, sole, sole_there, there in lake.query(
            "SELECT i.number, count(*) FILTER (WHERE i.raw_id IS NULL),"
            " count(*) FILTER (WHERE f.rows = 1), count(*) FILTER (WHERE f.rows = 1 AND s.raw_id IS NOT NULL),"
            " count(s.raw_id) FROM temp.adopt_ids AS i"
            f" LEFT JOIN ({_copies('adopt_ids')}) AS f ON f.raw_id = i.raw_id"
            f" LEFT JOIN ({_copies('adopt_staged')}) AS s ON s.raw_id = i.raw_id GROUP BY i.number"
        )
    }


def keep_claims(lake: Queryable, claimed: Sequence[ReadFile]) -> None:
    """Forgets the raw ids of all files but these."""
    lake.query(
        "DELETE FROM temp.adopt_ids WHERE number NOT IN (SELECT unnest(from_json(?, '[\"INTEGER\"]')))",
        (json.dumps([file.number for file in claimed]),),
    )


def count_copies(lake: Queryable) -> dict[int, Copies]:
    """Counts for each file that is left how many of its raw ids the table has less often, or more often."""
    return {
        number: Copies(short=short, over=over)
        for number, short, over in lake.query(
            "SELECT i.number, count(*) FILTER (WHERE coalesce(s.rows, 0) < f.rows),"
            " count(*) FILTER (WHERE s.rows > f.rows) FROM temp.adopt_ids AS i"
            f" JOIN ({_copies('adopt_ids')}) AS f ON f.raw_id = i.raw_id"
            f" LEFT JOIN ({_copies('adopt_staged')}) AS s ON s.raw_id = i.raw_id GROUP BY i.number"
        )
    }


def _copies(table: str) -> str:
    return f"SELECT raw_id, count(*) AS rows FROM temp.{table} WHERE raw_id IS NOT NULL GROUP BY raw_id"


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


def keep_match(lake: Queryable) -> dict[int, int]:
    """Keeps which row of the table is of which file.

    A raw id that is there more than once is the same record in several files, or twice in one: then the rows of each
    day are of the files of that day, and among those it makes no difference.

    Returns:
        How many rows say that they are of another file, by the number of the one that they were matched with.
    """
    lake.query(
        "CREATE OR REPLACE TEMP TABLE adopt_matched AS SELECT i.number, s.place, s.source"
        " FROM temp.adopt_staged AS s JOIN temp.adopt_ids AS i ON i.raw_id = s.raw_id"
        f" ANTI JOIN ({_copies('adopt_ids')} HAVING count(*) > 1) AS f ON f.raw_id = s.raw_id"
    )
    lake.query(_MATCH_COPIES)
    lake.query("INSERT INTO temp.adopt_match SELECT number, place FROM temp.adopt_matched")
    found = lake.query(
        "SELECT m.number, count(*) FROM temp.adopt_matched AS m JOIN temp.adopt_files AS f ON f.number = m.number"
        " WHERE m.source <> f.key GROUP BY m.number"
    )
    lake.query("DROP TABLE temp.adopt_matched")
    return dict(found)


_MATCH_COPIES = f"""
INSERT INTO temp.adopt_matched
WITH several AS ({_copies("adopt_ids")} HAVING count(*) > 1),

filed AS (
    SELECT i.number, i.raw_id, row_number() OVER (PARTITION BY i.raw_id ORDER BY f.day_of_key, f.key, i.number) AS nth
    FROM (SELECT *, concat_ws('-', year, month, day) AS day_of_key FROM temp.adopt_files) AS f
    JOIN temp.adopt_ids AS i ON i.number = f.number SEMI JOIN several ON several.raw_id = i.raw_id
),

staged AS (
    SELECT s.place, s.source, s.raw_id,
        row_number() OVER (PARTITION BY s.raw_id ORDER BY s.day, s.source, s.place) AS nth
    FROM temp.adopt_staged AS s SEMI JOIN several ON several.raw_id = s.raw_id
)

SELECT filed.number, staged.place, staged.source
FROM filed JOIN staged ON staged.raw_id = filed.raw_id AND staged.nth = filed.nth
"""


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
