"""What changed in a table between two snapshots: DuckLake's change feed, without what it reads in vain.

`ducklake_table_changes` looks for deletions twice, to tell updates from the rest, and for them opens every file of the
table that ever had some, whatever the span: 2.2 s for a table of 77 files, where the insertions took 0.06
(docs/performance.md). Whether anything was deleted at all stands in the catalog.
"""

from collections.abc import Mapping

from feeders.reader import Queryable

_CATALOG = "__ducklake_metadata_lakehouse.public"


def read_deletions(lake: Queryable) -> dict[str, int]:
    """The newest snapshot in which rows of a table went or its files were rewritten, by table with schema.

    A row that a kept snapshot had is in a file that the catalog still knows: with newer deletions (the last of those
    that one file of deletions holds is its `partial_max`), or as one that ended. A merge ends no file, and leaves its
    rows as they are. What came and went since may be told or not.
    """
    rows = lake.query(
        "SELECT schema_name || '.' || table_name, max(snapshot)"
        " FROM (SELECT table_id, greatest(begin_snapshot, partial_max) AS snapshot"
        " FROM {catalog}.ducklake_delete_file UNION ALL"
        " SELECT table_id, end_snapshot FROM {catalog}.ducklake_delete_file WHERE end_snapshot IS NOT NULL UNION ALL"
        " SELECT table_id, end_snapshot FROM {catalog}.ducklake_data_file WHERE end_snapshot IS NOT NULL)"
        " JOIN {catalog}.ducklake_table AS t USING (table_id) JOIN {catalog}.ducklake_schema USING (schema_id)"
        " WHERE t.end_snapshot IS NULL GROUP BY ALL".replace("{catalog}", _CATALOG)
    )
    return {table: int(snapshot) for table, snapshot in rows}


def feed_sql(table: str, since: int, until: int, *, deletions: Mapping[str, int]) -> str:
    """A query of the rows that came and went from one snapshot to another, both included.

    Its columns are those of the table and `change_type` (insert or delete). A row that was rewritten
    may be told as one that went and one that came. Raises nothing itself; the query does if an end has expired.

    Args:
        table: with its schema, both plain names.
        since: the first snapshot.
        until: the last one.
        deletions: as `read_deletions` told in the same transaction.
    """
    schema, _, name = table.partition(".")
    span = f"('lakehouse', '{schema}', '{name}', {since:d}, {until:d})"
    came = f"SELECT *, 'insert' AS change_type FROM ducklake_table_insertions{span}"  # noqa: S608 (plain names)
    if deletions.get(table, -1) < since:
        return f"({came})"
    went = f"SELECT *, 'delete' AS change_type FROM ducklake_table_deletions{span}"  # noqa: S608 (as above)
    return f"({came} UNION ALL BY NAME {went})"
