"""The append transaction through the writer: what each object version means, and what a failing one leaves behind."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

import feeders.append
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from feeders.arrow import pa, pq
from feeders.epoch import Epoch
from feeders.errors import LakeMisconfigured, StatementFailed
from feeders.failures import Failure
from feeders.lake import Lake
from feeders.ledger import ObjectVersion
from feeders.parquet import Limits, inspect
from feeders.schema import plan_load
from feeders.streams import Partition, StreamId
from feeders.work import ClaimLost, Load, Outcome, Removal, Request, Result, Work
from feeders.writer import BatchLimits, Writer
from tests.lakes import lake_config
from tests.probes import ITEMS, STREAM, lake_of, start, write_items

TIMEOUT_S = 60
PARTITION = Partition(year=2026, month="07", day="04")
REASON = Request(by="ops@example.com", reason="the source sent it again")

IDS = f"SELECT id FROM {ITEMS} ORDER BY id"
HISTORY = "SELECT action, etag, rows FROM meta.feeder_files WHERE key = ? ORDER BY epoch, loaded_at"
CURSOR = "SELECT cursor_path, files, rows FROM meta.feeder_cursors WHERE stream = 'items'"


def key(name: str) -> str:
    return f"raw/probe/items/year=2026/month=07/day=04/{name}.parquet"


class Appending:
    """A writer at work on a lake with the probe's stream, and a reader of the same lake."""

    def __init__(self, tenant: Tenant, lake: Lake, epoch: Epoch, folder: Path) -> None:
        self.lake = lake
        self._folder = folder
        self._files = 0
        self._writer = Writer(
            lambda: Lake(lake_config(tenant, instance="w-append")), epoch=epoch, limits=BatchLimits()
        )
        self._writer.start()

    def close(self) -> None:
        assert self._writer.close(timeout_s=TIMEOUT_S)
        self._writer.ended.result()

    def load(self, name: str, *ids: int, etag: str, replay: Request | None = None) -> Load:
        """Plans a file of the probe's stream with these ids."""
        return self.load_of_file(self.file(*ids), name, etag=etag, replay=replay)

    def file(self, *ids: int) -> Path:
        self._files += 1
        return write_items(self._folder / f"{self._files}.parquet", ids)

    def load_of_file(self, path: Path, name: str, *, etag: str, replay: Request | None = None) -> Load:
        return Load(
            stream=STREAM,
            partition=PARTITION,
            version=ObjectVersion(
                bucket="landing",
                key=key(name),
                etag=etag,
                version_id=None,
                size_bytes=path.stat().st_size,
                last_modified=None,
            ),
            plan=plan_load(path, inspect(path, Limits()), STREAM.columns, work_dir=path.parent),
            found_by="test",
            replay=replay,
        )

    def submit(self, work: Work, *, claimed: bool = True) -> "Future[Result]":
        return self._writer.submit(work, is_claimed=lambda: claimed)

    def apply(self, work: Work) -> Outcome:
        return self.submit(work).result(TIMEOUT_S).applied.outcome

    def apply_together(self, works: list[Work]) -> list["Future[Result]"]:
        """Submits works while the writer is held up, so that one batch takes them all."""
        gate = threading.Event()
        held = self._writer.call(lambda _: gate.wait(TIMEOUT_S))
        futures = [self.submit(work) for work in works]
        gate.set()
        assert held.result(TIMEOUT_S)
        for future in futures:
            future.exception(TIMEOUT_S)
        return futures

    def in_writer(self, sql: str) -> list[tuple[object, ...]]:
        """Runs a query in the writer's own DuckDB."""
        return self._writer.call(lambda lake: lake.query(sql)).result(TIMEOUT_S)

    def rows(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        return self.lake.query(sql, parameters)


@pytest.fixture(scope="module")
def shared_tenant(stack: Stack) -> Tenant:
    return stack.tenant("append")


@pytest.fixture
def appending(shared_tenant: Tenant, tmp_path: Path) -> Iterator[Appending]:
    """A writer of a term of its own; the lake is the module's, emptied."""
    with lake_of(shared_tenant, "w-append") as lake:
        epoch = start(lake, instance="w-append")
        with lake.transaction("empty it") as transaction:
            for table in (ITEMS, "meta.feeder_files", "meta.feeder_failures"):
                transaction.change(f"DELETE FROM {table}")
            transaction.change("UPDATE meta.feeder_cursors SET cursor_path = '', files = 0, rows = 0")
        appending = Appending(shared_tenant, lake, epoch, tmp_path)
        yield appending
        appending.close()


def test_a_then_b_then_a_again_is_a_change_and_the_same_again_a_duplicate(appending: Appending) -> None:
    a, b = appending.load("one", 1, 2, etag="a"), appending.load("one", 2, 3, 4, etag="b")
    assert appending.apply(a) is Outcome.LOADED
    assert appending.apply(a) is Outcome.DUPLICATE
    assert appending.apply(b) is Outcome.REPLACED
    assert appending.rows(IDS) == [(2,), (3,), (4,)]
    assert appending.apply(a) is Outcome.REPLACED
    assert appending.apply(a) is Outcome.DUPLICATE
    assert appending.rows(IDS) == [(1,), (2,)]
    # The ledger is a history; a duplicate is no part of it.
    assert appending.rows(HISTORY, key("one")) == [
        ("loaded", "a", 2),
        ("replaced", "b", 3),
        ("replaced", "a", 2),
    ]
    assert appending.rows(CURSOR) == [(key("one"), 3, 7)]


def test_the_same_key_in_another_bucket_is_another_object(appending: Appending) -> None:
    ours = appending.load("one", 1, etag="a")
    theirs = replace(ours, version=replace(ours.version, bucket="elsewhere"))
    assert appending.apply(ours) is Outcome.LOADED
    assert appending.apply(theirs) is Outcome.LOADED
    assert appending.apply(theirs) is Outcome.DUPLICATE


def test_a_key_below_the_cursor_is_loaded_and_the_cursor_stays(appending: Appending) -> None:
    assert appending.apply(appending.load("z", 1, etag="a")) is Outcome.LOADED
    assert appending.apply(appending.load("a", 2, etag="a")) is Outcome.LOADED
    assert appending.rows(CURSOR) == [(key("z"), 2, 2)]


def test_one_bad_file_among_many_is_found_by_halving_and_the_good_ones_commit(appending: Appending) -> None:
    works = [appending.load(f"good-{number}", number, etag="a") for number in range(12)]
    bad = appending.load("bad", 100, 101, etag="a")
    bad.plan.path.write_bytes(bad.plan.path.read_bytes()[:-200])  # broken after it was checked
    futures = appending.apply_together([*works[:7], bad, *works[7:]])
    failed = [future.exception() for future in futures]
    assert [number for number, error in enumerate(failed) if error is not None] == [7]
    assert isinstance(failed[7], StatementFailed)
    good = [future.result() for number, future in enumerate(futures) if number != 7]
    assert {result.applied.outcome for result in good} == {Outcome.LOADED}
    assert max(result.batch_items for result in good) > 1  # not one by one
    assert appending.rows(IDS) == [(number,) for number in range(12)]
    assert appending.rows("SELECT count(*) FROM meta.feeder_files") == [(12,)]
    # The writer goes on.
    assert appending.apply(appending.load("after", 200, etag="a")) is Outcome.LOADED


def test_two_versions_of_a_key_in_a_row_are_not_one_batch(appending: Appending) -> None:
    first, last = appending.load("one", 1, etag="a"), appending.load("one", 2, 3, etag="b")
    futures = appending.apply_together([first, last])
    assert [future.result().applied.outcome for future in futures] == [Outcome.LOADED, Outcome.REPLACED]
    assert appending.rows(IDS) == [(2,), (3,)]


def test_a_replay_loads_again_whatever_the_ledger_says(appending: Appending) -> None:
    assert appending.apply(appending.load("one", 1, 2, etag="a")) is Outcome.LOADED
    assert appending.apply(appending.load("two", 3, etag="a")) is Outcome.LOADED
    again = appending.load("one", 1, 2, etag="a", replay=REASON)
    assert appending.apply(again) is Outcome.REPLAYED
    never_seen = appending.load("three", 4, etag="a", replay=REASON)
    assert appending.apply(never_seen) is Outcome.REPLAYED
    assert appending.rows(IDS) == [(1,), (2,), (3,), (4,)]
    assert appending.rows(
        "SELECT key, requested_by, reason FROM meta.feeder_files WHERE action = 'replayed' ORDER BY key"
    ) == [(key("one"), REASON.by, REASON.reason), (key("three"), REASON.by, REASON.reason)]
    assert appending.apply(appending.load("one", 1, 2, etag="a")) is Outcome.DUPLICATE


def test_a_removal_takes_the_rows_and_the_object_may_come_back(appending: Appending) -> None:
    gone = Removal(
        stream=replace(STREAM, on_delete="remove"),
        partition=PARTITION,
        bucket="landing",
        key=key("one"),
        found_by="test",
    )
    assert appending.apply(gone) is Outcome.ABSENT
    assert appending.apply(appending.load("one", 1, 2, etag="a")) is Outcome.LOADED
    assert appending.apply(appending.load("two", 3, etag="a")) is Outcome.LOADED
    assert appending.apply(gone) is Outcome.REMOVED
    assert appending.apply(gone) is Outcome.ABSENT
    assert appending.rows(IDS) == [(3,)]
    # The same content again is a load: the ledger's latest row says that nothing of it is there.
    assert appending.apply(appending.load("one", 1, 2, etag="a")) is Outcome.LOADED
    assert appending.rows(HISTORY, key("one")) == [
        ("loaded", "a", 2),
        ("removed", "a", 0),
        ("loaded", "a", 2),
    ]
    assert appending.rows(IDS) == [(1,), (2,), (3,)]


def test_what_the_table_lacks_is_rescued_and_counted(appending: Appending, tmp_path: Path) -> None:
    path = tmp_path / "drift.parquet"
    columns = {"id": ["7", "not a number", "9"], "name": ["a", "b", "c"], "colour": [None, None, "red"]}
    pq.write_table(pa.table(columns), path)
    result = appending.submit(appending.load_of_file(path, "drift", etag="a")).result(TIMEOUT_S)
    assert result.applied.rescued_rows == 2
    assert appending.rows(f"SELECT id, name, _rescued_data FROM {ITEMS} ORDER BY name") == [
        (7, "a", None),
        (None, "b", '{"id":"not a number"}'),
        (9, "c", '{"colour":"red"}'),
    ]
    assert appending.rows("SELECT rows, rescued_rows FROM meta.feeder_files") == [(3, 2)]


def test_an_empty_file_is_in_the_ledger_with_no_rows(appending: Appending) -> None:
    empty = appending.load("empty", etag="a")
    assert appending.apply(empty) is Outcome.LOADED
    assert appending.apply(empty) is Outcome.DUPLICATE
    assert appending.rows(HISTORY, key("empty")) == [("loaded", "a", 0)]
    assert appending.rows(CURSOR) == [(key("empty"), 1, 0)]
    # An object that becomes empty loses its rows.
    assert appending.apply(appending.load("one", 1, etag="a")) is Outcome.LOADED
    assert appending.apply(appending.load("one", etag="b")) is Outcome.REPLACED
    assert appending.rows(IDS) == []


def test_a_claim_that_is_lost_before_the_batch_writes_nothing(appending: Appending) -> None:
    lost = appending.submit(appending.load("lost", 1, etag="a"), claimed=False)
    kept = appending.submit(appending.load("kept", 2, etag="a"))
    with pytest.raises(ClaimLost):
        lost.result(TIMEOUT_S)
    assert kept.result(TIMEOUT_S).applied.outcome is Outcome.LOADED
    assert appending.rows(IDS) == [(2,)]
    assert appending.rows("SELECT key FROM meta.feeder_files") == [(key("kept"),)]


def test_partition_columns_are_the_key_s_text_whatever_the_file_says(
    appending: Appending, tmp_path: Path
) -> None:
    path = tmp_path / "year=1999" / "month=1" / "p.parquet"  # DuckDB's Hive partitioning would read this
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": [1], "month": ["1"], "year": [1999], "_source_file": ["elsewhere"]}), path)
    assert appending.apply(appending.load_of_file(path, "one", etag="a")) is Outcome.LOADED
    assert appending.rows(f"SELECT year, month, day, _source_file FROM {ITEMS}") == [
        (2026, "07", "04", key("one"))
    ]


def test_fewer_rows_than_the_footer_claims_is_a_failure(appending: Appending) -> None:
    honest = appending.load("one", 1, 2, etag="a")
    lying = replace(honest, plan=replace(honest.plan, rows=3))
    with pytest.raises(StatementFailed, match="RowCount"):
        appending.submit(lying).result(TIMEOUT_S)
    assert appending.rows(IDS) == []
    assert appending.rows("SELECT count(*) FROM meta.feeder_files") == [(0,)]
    assert appending.rows(CURSOR) == [("", 0, 0)]


def failure(name: str, reason: str) -> Failure:
    return Failure(
        stream=STREAM.id,
        bucket="landing",
        key=key(name),
        etag="a",
        reason=reason,
        attempts=1,
        detail={"error": reason, "found": 3},
    )


def test_a_dead_letter_is_recorded_superseded_and_resolved_by_a_load(appending: Appending) -> None:
    stranger = Failure(
        stream=None, bucket="landing", key="readme.txt", etag=None, reason="unrouted", attempts=1
    )
    for letter in (
        failure("one", "truncated"),
        failure("one", "over_limit"),
        failure("two", "truncated"),
        stranger,
    ):
        assert appending.apply(letter) is Outcome.RECORDED
    letters = "SELECT source, key, reason, resolution FROM meta.feeder_failures ORDER BY key, failed_at"
    assert appending.rows(letters) == [
        ("probe", key("one"), "truncated", "superseded"),
        ("probe", key("one"), "over_limit", None),
        ("probe", key("two"), "truncated", None),
        (None, "readme.txt", "unrouted", None),
    ]
    assert appending.apply(appending.load("one", 1, etag="b")) is Outcome.LOADED
    assert appending.rows(letters) == [
        ("probe", key("one"), "truncated", "superseded"),
        ("probe", key("one"), "over_limit", "loaded"),
        ("probe", key("two"), "truncated", None),
        (None, "readme.txt", "unrouted", None),
    ]
    assert appending.rows(
        "SELECT detail->>'error', detail->>'found' FROM meta.feeder_failures WHERE key = ?", key("two")
    ) == [("truncated", "3")]


def test_a_dead_letter_of_an_earlier_writer_is_resolved_too(tenant: Tenant, tmp_path: Path) -> None:
    with lake_of(tenant, "w-append") as lake:
        for outcome in (Outcome.RECORDED, Outcome.LOADED):
            appending = Appending(tenant, lake, start(lake, instance="w-append"), tmp_path)
            load = appending.load("one", 1, etag="a")
            work = failure("one", "truncated") if outcome is Outcome.RECORDED else load
            assert appending.apply(work) is outcome
            appending.close()
        assert lake.query("SELECT resolution FROM meta.feeder_failures") == [("loaded",)]


def test_a_stream_without_its_cursor_is_refused_and_nothing_written(appending: Appending) -> None:
    load = appending.load("one", 1, etag="a")
    unknown = replace(load, stream=replace(STREAM, id=StreamId(source="probe", stream="never_made")))
    with pytest.raises(LakeMisconfigured) as caught:
        appending.submit(unknown).result(TIMEOUT_S)
    assert "lotus-lake ddl apply" in caught.value.hint
    assert appending.rows(IDS) == []
    assert appending.apply(load) is Outcome.LOADED


def test_small_files_of_the_spool_leave_little_in_duckdbs_cache(
    appending: Appending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry for each piece of each file would stay as long as the instance lives; a large file is read in pieces."""
    appending.apply(appending.load("small", *range(20), etag="a"))
    entries = appending.in_writer(
        "SELECT max(entries) <= 2 FROM (SELECT count(*) AS entries FROM duckdb_external_file_cache()"
        " WHERE path LIKE '/%' GROUP BY path)"
    )
    assert entries == [(True,)]  # the footer and the row group
    monkeypatch.setattr(feeders.append, "PREFETCH_MOST_BYTES", 100)
    appending.apply(appending.load("large", *range(20), etag="b"))
    assert appending.in_writer("SELECT current_setting('prefetch_all_parquet_files')") == [(False,)]
