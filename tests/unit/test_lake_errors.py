"""Errors of DuckDB, provoked on a real one: named by the next move, and without the values that they quote."""

import contextlib
import socket
from pathlib import Path
from unittest.mock import Mock

import duckdb
import pytest

from feeders.catalog import Catalog
from feeders.errors import LakeConflict, LakeError, LakeUnavailable, StatementFailed
from feeders.lake import (
    Lake,
    LakeConfig,
    ObjectStore,
    classify,
    describe_create_table,
    load_extensions,
    memory_connection,
    without_values,
)
from feeders.lake import run as run_statement
from tests.hostile import BYTE_ARRAY, Column, Page, element, parquet_of, run

PRIVATE = "jane.doe@example.com"


def error_of(connection: duckdb.DuckDBPyConnection, *statements: str) -> LakeError:
    """Runs statements, the last of which fails, and classifies how."""
    *before, last = statements
    for statement in before:
        connection.execute(statement)
    with pytest.raises(duckdb.Error) as caught:
        connection.execute(last).fetchall()
    return classify(caught.value)


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    return memory_connection()


@pytest.mark.parametrize(
    "statement",
    [
        f"SELECT CAST('{PRIVATE}' AS BIGINT)",
        f"SELECT CAST('{PRIVATE}' AS TIMESTAMP WITH TIME ZONE)",
        f"SELECT CAST('{PRIVATE}' AS DECIMAL(18, 2))",
        f"""SELECT CAST('{{"email": "{PRIVATE}"' AS JSON)""",
        f"SELECT CAST('[\"{PRIVATE}\"' AS VARCHAR[])",
        f"SELECT CAST('{PRIVATE}\nand more of {PRIVATE}' AS BIGINT)",
        f"SELECT CAST('it''s {PRIVATE}' AS BIGINT)",
        f"""SELECT CAST('a "quoted" {PRIVATE}' AS DOUBLE)""",
        f"SELECT CAST({{'a': '{PRIVATE}'}} AS STRUCT(a BIGINT))",
        f"SELECT strptime('{PRIVATE}', '%Y-%m-%d')",
    ],
)
def test_a_row_s_value_is_not_in_the_error(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    found = error_of(connection, statement)
    assert isinstance(found, StatementFailed)
    assert "jane" not in str(found)
    assert "example.com" not in str(found)
    assert found.kind
    assert not found.invalidates_instance


def test_a_value_that_a_constraint_refuses_is_not_in_the_error(connection: duckdb.DuckDBPyConnection) -> None:
    found = error_of(
        connection,
        "CREATE TABLE t (email VARCHAR PRIMARY KEY)",
        f"INSERT INTO t VALUES ('{PRIVATE}')",
        f"INSERT INTO t VALUES ('{PRIVATE}')",
    )
    assert isinstance(found, StatementFailed)
    assert found.kind == "ConstraintException"
    assert PRIVATE not in str(found)


def test_numbers_that_do_not_fit_are_not_in_the_error(connection: duckdb.DuckDBPyConnection) -> None:
    for statement in (
        "SELECT CAST(4111111111111111 AS INTEGER)",
        "SELECT CAST(4111111111111111 AS DECIMAL(4, 2))",
        "SELECT 4111111111111111::BIGINT * 4111111111111111::BIGINT",
        "SELECT CAST(4111111111111111.5::DOUBLE AS INTEGER)",
    ):
        found = error_of(connection, statement)
        assert isinstance(found, StatementFailed)
        assert "4111" not in str(found), statement


def test_a_parquet_file_s_values_are_not_in_the_error(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    connection.execute(f"COPY (SELECT '{PRIVATE}' AS email) TO '{path}' (FORMAT parquet)")
    found = error_of(connection, f"SELECT CAST(email AS BIGINT) FROM read_parquet('{path}')")
    assert isinstance(found, StatementFailed)
    assert found.kind == "ConversionException"
    assert PRIVATE not in str(found)


def test_what_helps_a_person_stays(connection: duckdb.DuckDBPyConnection) -> None:
    text = str(error_of(connection, f"SELECT CAST('{PRIVATE}' AS BIGINT)"))
    assert "ConversionException" in text
    assert "INT64" in text or "BIGINT" in text
    assert len(without_values("x" * 1000)) <= 300


def test_sql_that_is_wrong_is_the_statement_s_fault(connection: duckdb.DuckDBPyConnection) -> None:
    for statement, kind in (
        ("SELEC 1", "ParserException"),
        ("SELECT nothing", "BinderException"),
        ("SELECT * FROM nowhere", "CatalogException"),
    ):
        found = error_of(connection, statement)
        assert isinstance(found, StatementFailed)
        assert found.kind == kind


def test_the_name_that_is_wrong_in_a_model_is_shown(connection: duckdb.DuckDBPyConnection) -> None:
    found = error_of(connection, "CREATE TABLE t (a INTEGER)", "SELECT financial_statue FROM t")
    assert "financial_statue" in str(found)


def test_a_broken_parquet_file_is_the_statement_s_fault(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    path = tmp_path / "https-s3-http.parquet"  # words in a path must not make it an outage
    path.write_bytes(b"PAR1 not really PAR1")
    assert isinstance(error_of(connection, f"SELECT * FROM read_parquet('{path}')"), StatementFailed)
    assert isinstance(
        error_of(connection, f"SELECT * FROM read_parquet('{tmp_path / 'missing.parquet'}')"), StatementFailed
    )


def test_two_that_touch_one_row_conflict(connection: duckdb.DuckDBPyConnection) -> None:
    other = connection.cursor()
    connection.execute("CREATE TABLE t (a INTEGER)")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("BEGIN")
    connection.execute("UPDATE t SET a = 2")
    other.execute("BEGIN")
    assert isinstance(error_of(other, "UPDATE t SET a = 3"), LakeConflict)


def test_the_second_of_two_commits_conflicts() -> None:
    # As DuckLake 1.5.5 told it, shortened: here two merges met.
    text = (
        'Failed to commit DuckLake transaction.\nFailed to execute query "INSERT INTO "public".ducklake_snapshot'
        ' VALUES (51, NOW(), 2, 28, 189);": ERROR:  duplicate key value violates unique constraint'
        ' "ducklake_snapshot_pkey"\nDETAIL:  Key (snapshot_id)=(51) already exists.\n'
    )
    assert isinstance(classify(duckdb.TransactionException(text)), LakeConflict)


def test_a_value_that_reads_like_an_outage_or_a_conflict_is_neither(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    for text in (
        "connection to server lost",
        "transaction conflict",
        "HTTP 503 of s3://bucket",
        "too many clients",
    ):
        assert isinstance(error_of(connection, f"SELECT CAST('{text}' AS BIGINT)"), StatementFailed), text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_store_that_does_not_answer_is_unavailable(connection: duckdb.DuckDBPyConnection) -> None:
    load_extensions(connection)
    found = error_of(
        connection,
        "SET http_retries = 0",
        f"CREATE SECRET s (TYPE s3, KEY_ID 'k', SECRET 'hidden', ENDPOINT '127.0.0.1:{free_port()}',"
        " USE_SSL false, URL_STYLE 'path')",
        "SELECT * FROM read_parquet('s3://lake/data/a.parquet')",
    )
    assert isinstance(found, LakeUnavailable)
    assert found.dependency == "s3"
    assert "hidden" not in str(found)


def test_a_catalog_that_does_not_answer_is_unavailable() -> None:
    config = LakeConfig(
        catalog=Catalog(
            host="127.0.0.1", port=free_port(), database="d", user="u", password="hidden-password"
        ),
        store=ObjectStore(
            endpoint="http://127.0.0.1:1", access_key_id="k", secret_access_key="hidden-secret"
        ),
        data_path="s3://lake/data/",
        instance="w-test",
    )
    with pytest.raises(LakeUnavailable) as caught:
        Lake(config)
    assert caught.value.dependency == "postgresql"
    assert "hidden" not in str(caught.value)


def test_ddl_that_duckdb_refuses_is_named() -> None:
    with pytest.raises(StatementFailed) as caught:
        describe_create_table("CREATE TABLE staging.t (a NOSUCHTYPE)")
    assert "NOSUCHTYPE" in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "status", "hinted"),
    [("PUT", 500, True), ("POST", 500, True), ("PUT", 503, False), ("GET", 500, False)],
)
def test_a_put_that_s3_does_not_take_has_a_hint(request_: str, status: int, hinted: bool) -> None:
    """The words of DuckDB about a bucket of SeaweedFS that is over its quota."""
    text = f"HTTP Error: Request returned HTTP {status} for HTTP {request_} to 's3://lake/data/a.parquet'"
    found = classify(duckdb.HTTPException(text))
    assert isinstance(found, LakeUnavailable)
    assert found.dependency == "s3"
    assert ("over its quota" in str(found)) is hinted


def test_an_error_that_quotes_bytes_which_are_no_text_is_a_statement_s(tmp_path: Path) -> None:
    """Python makes no duckdb.Error of it: unknown, it would end the writer's term, again with each delivery."""
    path = tmp_path / "json.parquet"
    documents = [element("document", leaf=True, physical=BYTE_ARRAY, converted=19)]
    text = b'{"a\xe4": secret}'
    page = Page(content=run(1, 1, width=1) + len(text).to_bytes(4, "little") + text, values=1)
    path.write_bytes(parquet_of([Column(elements=documents, pages=[page], physical=BYTE_ARRAY)], rows=1))
    connection = memory_connection()
    try:
        with pytest.raises(StatementFailed, match="Invalid JSON found in Parquet file") as caught:
            run_statement(connection, "SELECT document FROM read_parquet(?)", (str(path),))
        assert caught.value.kind == "InvalidInputException"
        assert "secret" not in str(caught.value)
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    finally:
        connection.close()


class _SpoiltCommit:
    """A connection whose COMMIT fails with a text that is no UTF-8, as one that quotes bytes of a file."""

    def execute(self, statement: str, *_: object) -> "_SpoiltCommit":
        if statement == "COMMIT":
            raise UnicodeDecodeError("utf-8", b"Failed to commit: '\xff'", 19, 20, "invalid start byte")
        return self

    def fetchall(self) -> list[tuple[object, ...]]:
        return []

    def close(self) -> None:
        pass


@pytest.mark.parametrize("outcome", ["committed", "not committed"])
def test_a_commit_whose_error_is_no_text_is_asked_for_like_any_other(
    monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    monkeypatch.setattr("feeders.lake.attach", Mock())
    monkeypatch.setattr("feeders.lake.Engine.take", Mock(return_value=_SpoiltCommit()))
    monkeypatch.setattr("feeders.lake.commit_outcome", Mock(return_value=outcome))
    catalog = Catalog(host="127.0.0.1", port=1, database="lake", user="lake", password="")
    store = ObjectStore(endpoint="http://127.0.0.1:1", access_key_id="", secret_access_key="")
    lake = Lake(LakeConfig(catalog=catalog, store=store, data_path="s3://lake/", instance="w-1"))
    told = contextlib.nullcontext() if outcome == "committed" else pytest.raises(LakeConflict)
    with told, lake.transaction("a test"):
        pass


def test_what_fits_neither_memory_nor_its_room_on_disk_is_the_statement_s_fault(tmp_path: Path) -> None:
    catalog = Catalog(host="", port=1, database="", user="", password="")
    store = ObjectStore(endpoint="", access_key_id="", secret_access_key="")
    config = LakeConfig(
        catalog=catalog,
        store=store,
        data_path="",
        instance="",
        memory_limit_bytes=64 * 1024**2,
        temp_directory=tmp_path / "temp",
        temp_max_bytes=64 * 1024**2,
    )
    connection = memory_connection(config)
    try:
        sql = "SELECT DISTINCT hash(range) || repeat('x', 100) AS text FROM range(4_000_000) ORDER BY text"
        with pytest.raises(StatementFailed) as caught:
            run_statement(connection, f"CREATE TABLE large AS {sql}", ())
        assert caught.value.kind == "OutOfMemoryException"
        used = sum(path.stat().st_size for path in (tmp_path / "temp").rglob("*") if path.is_file())
        assert used <= 64 * 1024**2
    finally:
        connection.close()


def test_a_catalog_where_nobody_listens_is_named_with_its_address() -> None:
    port = free_port()
    catalog = Catalog(host="127.0.0.1", port=port, database="d", user="u", password="hidden-password")
    with pytest.raises(LakeUnavailable, match=rf"127\.0\.0\.1.*{port}.*refused") as caught:
        catalog.connect(application="t-test")
    assert "\n" not in str(caught.value)
