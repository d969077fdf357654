"""The books of an adoption, in a DuckDB without a lake."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb

from feeders import adoption_check as books
from feeders.adoption import ReadFile
from feeders.ledger import ObjectVersion
from feeders.streams import Partition

FILES = 400_000


class Books:
    """DuckDB with little memory, and no disk to spill to."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(
            config={"memory_limit": "256MiB", "threads": 1, "max_temp_directory_size": "0B"}
        )

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()


def read_file(number: int) -> ReadFile:
    version = ObjectVersion(
        bucket="landing",
        key=f"raw/shopify/orders/year=2026/month=07/day=04/{number:036d}.parquet",
        etag="e",
        version_id=None,
        size_bytes=1,
        last_modified=datetime(2026, 7, 4, tzinfo=UTC),
    )
    return ReadFile(
        number=number, version=version, partition=Partition(year=2026, month="07", day="04"), rows=1
    )


def test_the_files_of_a_large_stream_fit_into_little_memory() -> None:
    lake = Books()
    books.begin_check(lake)
    lake.query("CREATE TEMP TABLE adopt_ids (number INTEGER, raw_id VARCHAR)")
    lake.query("CREATE TEMP TABLE adopt_staged (place BIGINT, raw_id VARCHAR)")
    lake.query("INSERT INTO adopt_ids VALUES (0, 'a'), (1, 'b'), (?, 'c')", (FILES,))
    files = [read_file(number) for number in range(FILES)]
    books.count_files(lake, files)
    books.keep_claims(lake, files[1:])
    assert lake.query("SELECT count(*) FROM adopt_files") == [(FILES,)]
    assert lake.query("SELECT number FROM adopt_ids") == [(1,)]
