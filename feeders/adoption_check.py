"""Counts the rows of an old lake's table against the raw ids of the files in the bucket.

The facts lie in temporary tables of the lake's DuckDB, which spills them to disk: each raw id of the files that are
read, and each of the table with its row's number. Of a stream that agrees it is kept which row is of which file, for
`feeders.adopt` to write.
"""

import json
from collections.abc import Sequence

from feeders.adoption import Copies, Count, Left, Matched, ReadFile
from feeders.lake import StatementFailed
from feeders.old_lake import RAW_ID, RESCUED, SOURCE_FILE, OldTable, has_column, table_at
from feeders.reader import Queryable
from feeders.schema import SOURCE, LoadPlan
from feeders.types import fold, quote_identifier

FILES_MOST = 10_000
"""So many files are told to DuckDB at once: as one text, those of a whole stream don't fit into its memory."""


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
        "CREATE OR REPLACE TEMP TABLE adopt_staged (place BIGINT, raw_id VARCHAR, source VARCHAR, day BIGINT,"
        " rescued BOOLEAN)"
    )
    if not old.rows:
        return
    source = quote_identifier(SOURCE_FILE) if has_column(old.columns or (), SOURCE_FILE) else "NULL"
    has_day = all(has_column(old.columns or (), name) for name in ("year", "month", "day"))
    day = _day_of("o") if has_day else "NULL"
    has_rescued = has_column(old.columns or (), RESCUED)
    rescued = f"{quote_identifier(RESCUED)} IS NOT NULL" if has_rescued else "false"
    lake.query(
        f"INSERT INTO temp.adopt_staged SELECT rowid, {quote_identifier(RAW_ID)}, {source}, {day}, {rescued}"
        f" FROM (SELECT rowid, * FROM {table_at(old.stream, snapshot)}) AS o"
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
    raw_id = next(source for name, source in plan.projection if fold(name) == fold(RAW_ID))
    [(noted,)] = lake.query(
        f"INSERT INTO temp.adopt_ids SELECT ?, ({raw_id})::VARCHAR FROM read_parquet(?,"
        f" hive_partitioning = false, union_by_name = false, binary_as_string = true) AS {SOURCE}",
        (number, str(plan.path)),
    )
    if noted != plan.rows:
        # It is read once more, with care.
        lake.query("DELETE FROM temp.adopt_ids WHERE number = ?", (number,))
        raise StatementFailed("RowCount", f"the file gave {noted} rows, its footer claims {plan.rows}")


def count_files(lake: Queryable, files: Sequence[ReadFile]) -> dict[int, Count]:
    """Counts the rows of each file that was noted, by its number."""
    for begin in range(0, len(files), FILES_MOST):
        _note_files(lake, files[begin : begin + FILES_MOST])
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
    lake.query("CREATE OR REPLACE TEMP TABLE adopt_kept (number INTEGER)")
    for begin in range(0, len(claimed), FILES_MOST):
        numbers = [file.number for file in claimed[begin : begin + FILES_MOST]]
        lake.query(
            "INSERT INTO temp.adopt_kept SELECT unnest(from_json(?, '[\"INTEGER\"]'))", (json.dumps(numbers),)
        )
    lake.query("DELETE FROM temp.adopt_ids WHERE number NOT IN (SELECT number FROM temp.adopt_kept)")
    lake.query("DROP TABLE temp.adopt_kept")


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


def keep_match(lake: Queryable) -> dict[int, Matched]:
    """Keeps which row of the table is of which file.

    A raw id that is there more than once is the same record in several files, or twice in one. Of such rows each is
    of the file that it says; else of one of its day; and among those that say neither it makes no difference.

    Returns:
        What there is to say of the rows, by the number of the file that they were matched with.
    """
    lake.query(
        "CREATE OR REPLACE TEMP TABLE adopt_matched AS SELECT i.number, s.place, s.source, s.rescued"
        " FROM temp.adopt_staged AS s JOIN temp.adopt_ids AS i ON i.raw_id = s.raw_id"
        f" ANTI JOIN ({_copies('adopt_ids')} HAVING count(*) > 1) AS f ON f.raw_id = s.raw_id"
    )
    _match_copies(lake)
    lake.query("INSERT INTO temp.adopt_match SELECT number, place FROM temp.adopt_matched")
    found = lake.query(
        "SELECT m.number, count(*) FILTER (WHERE m.source <> f.key), count(*) FILTER (WHERE m.rescued)"
        " FROM temp.adopt_matched AS m JOIN temp.adopt_files AS f ON f.number = m.number GROUP BY m.number"
    )
    lake.query("DROP TABLE temp.adopt_matched")
    return {number: Matched(elsewhere=elsewhere, rescued=rescued) for number, elsewhere, rescued in found}


def _match_copies(lake: Queryable) -> None:
    """Matches raw ids that several rows of files have: by the file that a row says, then by its day, then in order."""
    several = f"SEMI JOIN ({_copies('adopt_ids')} HAVING count(*) > 1) AS m ON m.raw_id"
    lake.query(
        "CREATE OR REPLACE TEMP TABLE adopt_filed AS SELECT row_number() OVER () AS line, i.number, i.raw_id, f.key,"
        f" {_day_of('f')} AS day FROM temp.adopt_ids AS i JOIN temp.adopt_files AS f ON f.number = i.number"
        f" {several} = i.raw_id"
    )
    lake.query(
        f"CREATE OR REPLACE TEMP TABLE adopt_rows AS SELECT s.* FROM temp.adopt_staged AS s {several} = s.raw_id"
    )
    for of_file, of_row in (("key", "source"), ("day", "day"), ("0", "0")):
        lake.query(_ONE_OF_EACH.format(of_file=of_file, of_row=of_row))
        lake.query(
            "INSERT INTO temp.adopt_matched SELECT number, place, source, rescued FROM temp.adopt_pairs"
        )
        lake.query("DELETE FROM temp.adopt_filed WHERE line IN (SELECT line FROM temp.adopt_pairs)")
        lake.query("DELETE FROM temp.adopt_rows WHERE place IN (SELECT place FROM temp.adopt_pairs)")
    for table in ("adopt_pairs", "adopt_filed", "adopt_rows"):
        lake.query(f"DROP TABLE temp.{table}")


def _day_of(table: str) -> str:
    """A row's day as a number, of text or numbers; NULL if a part of it is."""
    year, month, day = (f"try_cast({table}.{name} AS BIGINT)" for name in ("year", "month", "day"))
    return f"{year} * 10000 + {month} * 100 + {day}"


_ONE_OF_EACH = """
CREATE OR REPLACE TEMP TABLE adopt_pairs AS
WITH filed AS (
    SELECT *, {of_file} AS same, row_number() OVER (PARTITION BY raw_id, {of_file} ORDER BY day, key, line) AS nth
    FROM temp.adopt_filed
),

staged AS (
    SELECT *, {of_row} AS same, row_number() OVER (PARTITION BY raw_id, {of_row} ORDER BY day, source, place) AS nth
    FROM temp.adopt_rows
)

SELECT filed.number, filed.line, staged.place, staged.source, staged.rescued
FROM filed JOIN staged ON staged.raw_id = filed.raw_id AND staged.same = filed.same AND staged.nth = filed.nth
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
