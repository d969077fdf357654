"""Dead letters and sweeps: a version that was given up is not brought back."""

from pathlib import Path

from feeders.failures import Failure, dead_versions, record_failure
from feeders.lake import Transaction, memory_connection
from feeders.streams import StreamId

DDL = Path(__file__).parents[2] / "ddl" / "meta" / "feeder_failures.sql"


def letters() -> Transaction:
    connection = memory_connection()
    connection.execute("CREATE SCHEMA meta")
    connection.execute(DDL.read_text())
    return Transaction(connection, "batch")


def failure(etag: str | None) -> Failure:
    stream = StreamId(source="shop", stream="orders")
    return Failure(
        stream=stream, bucket="landing", key="a.parquet", etag=etag, reason="crashed_process", attempts=1
    )


def test_the_letter_of_a_replay_that_was_never_read_is_about_the_version_that_was_dead_before() -> None:
    transaction = letters()
    for etag in ("first", "second", None, None):
        record_failure(transaction, failure(etag))
    assert dead_versions(transaction, [("landing", "a.parquet")]) == {("landing", "a.parquet", "second")}


def test_a_letter_without_version_and_without_one_before_it_says_so() -> None:
    transaction = letters()
    record_failure(transaction, failure(None))
    assert dead_versions(transaction, [("landing", "a.parquet")]) == {("landing", "a.parquet", None)}
