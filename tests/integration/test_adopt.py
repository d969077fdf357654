"""`lotus-lake adopt`: an old lake whose rows are those of its files is taken over, any other is left as it is."""

import json
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from consumer.embedded.identity import Tenant
from consumer.errors import Unavailable
from consumer.landing.generate import Landing
from consumer.objects import Answer
from feeders import fault
from feeders.adopt import Adopter
from feeders.lake import Lake
from tests.asking import Document, command
from tests.bucketful import Bucketful, removing_project
from tests.exact import assert_exact
from tests.helpers import wait_until
from tests.landed import wait_until_loaded
from tests.old_lakes import (
    CUSTOMERS,
    TABLE,
    add_rows,
    body_of,
    cursor_at,
    id_of,
    lake_of,
    make_old,
    make_old_again,
    snapshot_of,
)
from tests.processes import consumer_process
from tests.service import in_landing, order_key, parquet, put, put_all, running_service

A, B, C = order_key("a"), order_key("b"), order_key("c")
FILES = {A: ["a1", "a2"], B: ["b1", "b2", "b3"], C: ["c1"]}
AB = ["a1", "a2", "b1", "b2", "b3"]
CUSTOMER = "raw/shopify/customers/2026_07_04_1_1.parquet"
ALONE = {"LOTUS_FILER_GRPC": "", "LOTUS_NOTIFICATIONS": "false"}


def land(tenant: Tenant, files: Mapping[str, Sequence[str | None]]) -> dict[str, str]:
    """Puts files whose rows have these raw ids; returns their etags."""
    return put_all(tenant, {key: body_of(raw_ids) for key, raw_ids in files.items()})


def adopt(tenant: Tenant, *arguments: str, **changes: str) -> tuple[int, Document]:
    """The exit status, and what --json prints."""
    done = command(tenant, "adopt", *arguments, "--json", **changes)
    assert done.stdout, done.output
    return done.exit_code, json.loads(done.stdout)


def refused(tenant: Tenant, *arguments: str, **changes: str) -> tuple[int, str]:
    """The exit status, and what is said on standard error."""
    done = command(tenant, "adopt", *arguments, **changes)
    return done.exit_code, done.stderr


def stream_of(document: Document, name: str = "orders") -> dict[str, Any]:
    [found] = [each for each in document["streams"] if each["stream"] == name]
    return found


def named(document: Document) -> set[tuple[object, ...]]:
    fields = ("kind", "table", "key", "rows", "rows_in_file", "rows_in_staging")
    return {tuple(each[field] for field in fields) for each in document["named"]}


def sources(lake: Lake, table: str = TABLE) -> list[tuple[object, ...]]:
    return lake.query(
        f"SELECT _airbyte_raw_id, id, year, month, day, _source_file, _rescued_data FROM {table} ORDER BY 1"
    )


def rows_of(files: Mapping[str, Sequence[str]]) -> list[tuple[object, ...]]:
    return sorted(
        (raw_id, id_of(raw_id), 2026, "07", "04", key, None)
        for key, raw_ids in files.items()
        for raw_id in raw_ids
    )


def ledger(lake: Lake) -> list[tuple[object, ...]]:
    return lake.query(
        "SELECT key, etag, size_bytes, rows, rescued_rows, action, found_by FROM meta.feeder_files ORDER BY key"
    )


def fill(
    tenant: Tenant, tables: Mapping[str, Sequence[str | None]], cursors: Mapping[str, str] | None
) -> int:
    """Makes an old lake; returns its newest snapshot."""
    with lake_of(tenant) as lake:
        make_old(lake, tables, cursors)
        return snapshot_of(lake)


def ordered(tenant: Tenant) -> int:
    """An old lake up to B, whose bucket has C too."""
    return fill(tenant, {TABLE: ["a1", "a2"], CUSTOMERS: []}, cursor_at(B)) + _add(tenant, ["b1", "b2", "b3"])


def _add(tenant: Tenant, raw_ids: Sequence[str]) -> int:
    with lake_of(tenant) as lake:
        add_rows(lake, TABLE, raw_ids)
    return 1


def test_what_agrees_is_adopted_and_not_loaded_again(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    etags = land(tenant, FILES)
    before = ordered(tenant)
    monkeypatch.setattr("feeders.adopt.WINDOW", 2)  # several statements write the rows
    assert "lotus-lake adopt" in command(tenant, "ddl", "apply").stderr

    # Looking first changes nothing.
    status, document = adopt(tenant)
    assert (status, document["applied"], document["agrees"]) == (0, False, True)
    assert stream_of(document) == {
        "source": "shopify",
        "stream": "orders",
        "table": TABLE,
        "state": "agrees",
        "cursor": B,
        "files": 3,
        "adopted_files": 2,
        "adopted_rows": 5,
        "files_to_load": 1,
        "rows_in_staging": 5,
    }
    shown = command(tenant, "adopt")
    assert "2 files with 5 rows of 1 streams would be adopted; --apply writes it" in shown.stdout
    with lake_of(tenant) as lake:
        assert snapshot_of(lake) == before

    status, document = adopt(tenant, "--apply", "--by", "ann")
    assert (status, document["applied"]) == (0, True)
    with lake_of(tenant) as lake:
        assert sources(lake) == rows_of({A: FILES[A], B: FILES[B]})
        adopted = [(key, etags[key], len(body_of(FILES[key])), len(FILES[key])) for key in (A, B)]
        assert ledger(lake) == [(*each, 0, "adopted", "adopt") for each in adopted]
        assert lake.query("SELECT DISTINCT bucket, requested_by, epoch FROM meta.feeder_files") == [
            (tenant.landing_bucket, "ann", 1)
        ]
        assert lake.query(
            "SELECT source, stream, cursor_path, cursor_date::VARCHAR, files, rows FROM meta.feeder_cursors"
        ) == [("shopify", "orders", B, "2026-07-04", 2, 5)]
        after = snapshot_of(lake)

    # Once more there is nothing to do.
    status, document = adopt(tenant, "--apply")
    assert (status, stream_of(document)["state"]) == (0, "in the ledger")
    with lake_of(tenant) as lake:
        assert snapshot_of(lake) == after

    with running_service(tenant, **ALONE) as service:
        service.wait_for_outcomes(loaded=1)
        service.wait_for_rows(f"SELECT count(*) FROM {TABLE}", [(6,)])
        assert sources(service.lake) == rows_of(FILES)
        # The ledger says of a version what a load of it says.
        for key in (A, B):
            facts = in_landing(tenant, tenant.loader, lambda bucket, key=key: bucket.head(key))
            assert service.rows(
                "SELECT etag, version_id, size_bytes, epoch(last_modified) FROM meta.feeder_files WHERE key = ?",
                key,
            ) == [(facts.etag, facts.version_id, facts.size_bytes, facts.last_modified.timestamp())]
        assert command(tenant, "audit").exit_code == 0
        # An adopted version is no news; another one replaces its rows.
        with service.expecting(replayed=1):
            assert command(tenant, "replay", A, "--reason", "test").exit_code == 0
        put(tenant, B, body_of(["b9"]))
        with service.expecting(replaced=1):
            assert command(tenant, "sweep").exit_code == 0
        assert sources(service.lake) == rows_of(FILES | {B: ["b9"]})
        assert command(tenant, "audit").exit_code == 0


@pytest.mark.timeout(300)
def test_a_whole_lake_goes_on_as_if_it_had_always_been_ours(tenant: Tenant, tmp_path: Path) -> None:
    bucketful = Bucketful(
        tenant=tenant,
        landing=Landing(seed=9, files=None, rows=(3, 12)),
        project_dir=removing_project(tmp_path),
    )
    settings = {"LOTUS_PROJECT_DIR": str(bucketful.project_dir)}
    with consumer_process(tenant, tmp_path / "first", settings=settings) as consumer:
        bucketful.land(24)
        wait_until_loaded(bucketful)
        assert consumer.terminate() == 0, consumer.tail()
    with lake_of(tenant) as lake:
        make_old_again(lake, {})
    with consumer_process(tenant, tmp_path / "refused", settings=settings) as consumer:
        assert consumer.wait_for_end() == 3
        assert "lotus-lake adopt" in consumer.tail()
    loaded = sum(1 for key in bucketful.bodies if key not in bucketful.broken)
    bucketful.land(6)
    status, document = adopt(tenant, "--apply", **settings)
    assert (status, document["named"][:3]) == (0, [])
    assert sum(each["adopted_files"] for each in document["streams"]) == loaded
    with consumer_process(tenant, tmp_path / "second", settings=settings) as consumer:
        wait_until_loaded(bucketful)
        gone = next(key for key in bucketful.bodies if "/orders/" in key and key not in bucketful.broken)
        bucketful.delete(gone)
        bucketful.land(6)
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert command(tenant, "audit", **settings).exit_code == 0
        assert consumer.terminate() == 0, consumer.tail()


DISAGREEING: dict[
    str, tuple[dict[str, Sequence[str | None]], Sequence[str | None], set[tuple[object, ...]]]
] = {
    "absent": ({}, ["b1", "b2", "b3"], {("absent", TABLE, A, 2, 2, 0)}),
    "partial": ({}, ["a2", "b1", "b2", "b3"], {("partial", TABLE, A, 1, 2, 1)}),
    "beyond": ({}, [*AB, "c1"], {("beyond", TABLE, C, 1, 1, 1)}),
    "beyond in part": ({C: ["c1", "c2"]}, [*AB, "c1"], {("partial", TABLE, C, 1, 2, 1)}),
    "doubled": ({}, [*AB, "a1"], {("doubled", TABLE, A, 1, 2, 2)}),
    "stray": ({}, [*AB, "x1", "x2"], {("stray", TABLE, None, 2, None, None)}),
    "no id in a file": (
        {A: ["a1", None]},
        ["a1", None, "b1", "b2", "b3"],
        {("no_id", TABLE, A, 1, 2, 1), ("no_id", TABLE, None, 1, None, None)},
    ),
    "no id in the table": ({}, [*AB, None], {("no_id", TABLE, None, 1, None, None)}),
    "in two files, and there once": (
        {B: ["a1", "b2", "b3"]},
        ["a1", "a2", "b2", "b3"],
        {("partial", TABLE, A, 1, 2, 2), ("partial", TABLE, B, 1, 3, 3)},
    ),
    "overwritten since": (
        {A: ["a8", "a9"]},
        AB,
        {("absent", TABLE, A, 2, 2, 0), ("stray", TABLE, None, 2, None, None)},
    ),
}


@pytest.mark.parametrize("case", DISAGREEING)
def test_what_disagrees_is_named_and_nothing_is_written(tenant: Tenant, case: str) -> None:
    files, staged, wanted = DISAGREEING[case]
    land(tenant, FILES | files)
    # Another stream agrees: it is not adopted alone.
    land(tenant, {CUSTOMER: ["k1"]})
    cursors = cursor_at(B) | {"shopify.customers": CUSTOMER}
    before = fill(tenant, {TABLE: staged, CUSTOMERS: ["k1"]}, cursors)
    for arguments in ((), ("--apply",)):
        status, document = adopt(tenant, *arguments)
        assert (status, document["applied"], document["agrees"]) == (1, False, False)
        assert named(document) == wanted
    shown = command(tenant, "adopt", "--apply")
    assert shown.exit_code == 1
    assert "nothing was written" in shown.stdout
    for _, _, key, *_ in wanted:
        assert str(key or TABLE) in shown.stdout
    with lake_of(tenant) as lake:
        assert snapshot_of(lake) == before


def test_a_file_that_cannot_be_read_matters_only_where_its_rows_may_be_there(tenant: Tenant) -> None:
    land(tenant, FILES)
    put(tenant, order_key("0"), b"PAR1 and no more")
    fill(tenant, {TABLE: AB}, cursor_at(B))
    status, document = adopt(tenant)
    assert (status, named(document)) == (1, {("unreadable", TABLE, order_key("0"), 0, None, None)})
    # The rows are all of other files: so none is of this one.
    status, document = adopt(tenant, "--cursor", "shopify.orders=")
    assert (status, stream_of(document)["adopted_files"], stream_of(document)["files_to_load"]) == (0, 2, 2)


def test_values_that_the_table_has_no_column_for_need_a_replay(tenant: Tenant, tmp_path: Path) -> None:
    def body(tax: float | None, raw_id: str) -> bytes:
        return parquet([{"_airbyte_raw_id": raw_id, "id": 1, "total_tax": tax}])

    put_all(tenant, {A: body(1.5, "a1"), B: body(2.5, "b1"), C: body(None, "c1")})
    before = fill(tenant, {TABLE: ["a1", "b1", "c1"]}, cursor_at(C))
    # C has the column and no value in it.
    status, document = adopt(tenant, "--apply")
    assert (status, named(document)) == (1, {("lacks", TABLE, None, 2, None, None)})
    assert document["named"][0]["detail"] == "total_tax of 2 files"
    assert "--replay-later" in command(tenant, "adopt").stdout
    with lake_of(tenant) as lake:
        assert snapshot_of(lake) == before
    done = command(tenant, "adopt", "--apply", "--replay-later")
    days = ("--source", "shopify", "--stream", "orders", "--from", "2026-07-04", "--to", "2026-07-04")
    assert (done.exit_code, f"lotus-lake replay {' '.join(days)}" in done.stderr) == (0, True)
    values = f"SELECT total_tax FROM {TABLE} ORDER BY _airbyte_raw_id"
    with lake_of(tenant) as lake:
        assert lake.query(values) == [(None,), (None,), (None,)]
    with consumer_process(tenant, tmp_path / "service") as consumer:
        dry = ("replay", *days, "--dry-run")
        wait_until(lambda: command(tenant, *dry).exit_code == 0, timeout_s=60, what="the writer")
        said = command(tenant, "replay", *days, "--reason", "tax")
        assert said.exit_code == 0, said.output
        assert consumer.terminate() == 0, consumer.tail()
    with lake_of(tenant) as lake:
        assert lake.query(values) == [(1.5,), (2.5,), (None,)]


def test_values_that_the_old_table_rescued_are_there(tenant: Tenant) -> None:
    put(tenant, A, parquet([{"_airbyte_raw_id": "a1", "id": 1, "vat": 7}]))
    with lake_of(tenant) as lake:
        make_old(lake, {TABLE: ["a1"]}, cursor_at(A))
        lake.query(f"ALTER TABLE {TABLE} ADD COLUMN _rescued_data JSON")
    assert named(adopt(tenant)[1]) == {("lacks", TABLE, None, 1, None, None)}
    with lake_of(tenant) as lake:
        lake.query(f"UPDATE {TABLE} SET _rescued_data = ?", ('{"vat": 7}',))
    assert adopt(tenant, "--apply")[0] == 0
    with lake_of(tenant) as lake:
        assert lake.query("SELECT rows, rescued_rows FROM meta.feeder_files") == [(1, 1)]


def test_without_a_cursor_the_rows_tell(tenant: Tenant) -> None:
    # A record of a file that was loaded comes once more in one that was not.
    land(tenant, FILES | {C: ["a1", "c1"]})
    fill(tenant, {TABLE: AB}, None)
    status, document = adopt(tenant, "--apply")
    assert (status, stream_of(document)["cursor"], stream_of(document)["adopted_files"]) == (0, None, 2)
    with lake_of(tenant) as lake:
        assert sources(lake) == rows_of({A: FILES[A], B: FILES[B]})


def test_a_moment_without_s3_is_waited_for(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    land(tenant, FILES)
    fill(tenant, {TABLE: AB}, cursor_at(B))
    save, failed = Answer.save, list[Path]()

    async def fail_once(answer: Answer, path: Path) -> None:
        if not failed:
            failed.append(path)
            raise Unavailable("s3", "for a moment")
        await save(answer, path)

    monkeypatch.setattr(Answer, "save", fail_once)
    status, document = adopt(tenant)
    assert (status, stream_of(document)["adopted_rows"], len(failed)) == (0, 5, 1)


def test_a_copy_of_a_file_needs_a_cursor(tenant: Tenant) -> None:
    land(tenant, {A: FILES[A], B: FILES[A]})
    before = fill(tenant, {TABLE: FILES[A]}, None)
    status, document = adopt(tenant, "--apply")
    assert (status, {each[:3] for each in named(document)}) == (
        1,
        {("shared", TABLE, A), ("shared", TABLE, B), ("stray", TABLE, None)},
    )
    with lake_of(tenant) as lake:
        assert snapshot_of(lake) == before
    status, document = adopt(tenant, "--apply", "--cursor", f"shopify.orders={A}")
    assert (status, stream_of(document)["cursor"]) == (0, A)
    with lake_of(tenant) as lake:
        assert sources(lake) == rows_of({A: FILES[A]})


def test_a_record_of_two_days_is_matched_by_its_day(tenant: Tenant) -> None:
    """The same raw id in two files, both loaded: each row is of the file of its own day."""
    other = A.replace("day=04", "day=05")
    land(tenant, {A: ["a1"], other: ["o1", "a1"]})
    with lake_of(tenant) as lake:
        make_old(lake, {TABLE: []}, cursor_at(other))
        add_rows(lake, TABLE, ["o1", "a1"])
        lake.query(f"UPDATE {TABLE} SET day = '05'")
        add_rows(lake, TABLE, ["a1"])
    assert adopt(tenant, "--apply")[0] == 0
    with lake_of(tenant) as lake:
        assert lake.query(f"SELECT DISTINCT _source_file, day FROM {TABLE} ORDER BY ALL") == [
            (A, "04"),
            (other, "05"),
        ]


def test_a_row_without_a_day_takes_no_other_rows_file(tenant: Tenant) -> None:
    """The copy that says its day is of that day's file; the other one gets its file's day."""
    flat = "raw/shopify/orders/2026_07_05_1_1.parquet"
    land(tenant, {A: ["a1"], flat: ["a1"]})
    with lake_of(tenant) as lake:
        make_old(lake, {TABLE: []}, {})
        add_rows(lake, TABLE, ["a1"])
        lake.query(f"UPDATE {TABLE} SET year = NULL, month = NULL, day = NULL, id = 7")
        add_rows(lake, TABLE, ["a1"])
    assert adopt(tenant, "--apply", "--until", "2099-01-01T00:00Z")[0] == 0
    with lake_of(tenant) as lake:
        assert lake.query(f"SELECT _source_file, year, month, day, id FROM {TABLE} ORDER BY day") == [
            (A, 2026, "07", "04", 1),
            (flat, 2026, "07", "05", 7),
        ]


def test_a_copy_that_says_its_file_is_of_that_file(tenant: Tenant) -> None:
    land(tenant, {A: ["a1"], B: ["a1"]})
    with lake_of(tenant) as lake:
        make_old(lake, {TABLE: ["a1", "a1"]}, cursor_at(B))
        lake.query(f"ALTER TABLE {TABLE} ADD COLUMN _source_file VARCHAR")
        for column in ("year", "month", "day"):
            lake.query(f"ALTER TABLE {TABLE} DROP COLUMN {column}")
        [(first,)] = lake.query(f"SELECT min(rowid) FROM {TABLE}")
        # A row that sorts before the one that says nothing, and is of the file that sorts after the other.
        lake.query(f"UPDATE {TABLE} SET _source_file = ?, id = 7 WHERE rowid = ?", (B, first))
    status, document = adopt(tenant, "--apply")
    assert (status, named(document)) == (0, set())
    with lake_of(tenant) as lake:
        assert lake.query(f"SELECT _source_file, id FROM {TABLE} ORDER BY 1") == [(A, 1), (B, 7)]


def test_positions_from_the_command_line(tenant: Tenant) -> None:
    land(tenant, FILES)
    fill(tenant, {TABLE: AB}, cursor_at("raw/shopify/customers/2026_07_04_1_1.parquet"))
    status, document = adopt(tenant)
    assert (status, {each[0] for each in named(document)}) == (1, {"cursor"})
    assert stream_of(adopt(tenant, "--cursor", f"shopify.orders={B}")[1])["adopted_files"] == 2
    # Objects of the future are all there is: C is at or before it, and not there.
    for arguments in (
        ("--until", "2099-01-01T00:00Z"),
        ("--cursor", "shopify.orders=2099-01-01T00:00:00+02:00"),
    ):
        assert named(adopt(tenant, *arguments)[1]) == {("absent", TABLE, C, 1, 1, 0)}
    for arguments, text in (
        (("--cursor", "shopify.orders"), "SOURCE.STREAM=KEY"),
        (("--cursor", "shopify.nothing=x"), "shopify.orders"),
        (("--until", "yesterday"), "2026-07-04T12:00:00Z"),
        (("--cursor", "shopify.orders=2026-07-04T99"), "2026-07-04T12:00:00Z"),
    ):
        status, said = refused(tenant, *arguments)
        assert status == 2
        assert text in said


def test_an_adoption_that_ends_between_two_streams_goes_on(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(tenant, FILES | {CUSTOMER: ["k1"]})
    fill(tenant, {TABLE: AB, CUSTOMERS: ["k1"]}, cursor_at(B) | {"shopify.customers": CUSTOMER})
    done: list[str] = []

    def die(point: str) -> None:
        done.append(point)
        if done.count("committed") == 4:  # the tables of meta, the term, the ledger, the first stream
            raise KeyboardInterrupt

    fault.arm(die)
    try:
        with pytest.raises((KeyboardInterrupt, AssertionError)):
            adopt(tenant, "--apply")
    finally:
        fault.arm(None)
    with lake_of(tenant) as lake:
        assert lake.query("SELECT stream, action FROM meta.feeder_files") == [("customers", "adopted")]
    said = command(tenant, "ddl", "apply")
    assert said.exit_code == 3
    assert f"{TABLE} has rows" in said.stderr
    assert "lotus-lake adopt" in said.stderr
    status, document = adopt(tenant, "--apply")
    assert (status, stream_of(document, "customers")["state"]) == (0, "in the ledger")
    assert stream_of(document)["cursor"] == B
    with lake_of(tenant) as lake:
        assert sources(lake) == rows_of({A: FILES[A], B: FILES[B]})
        assert lake.query("SELECT key, rows FROM meta.feeder_files ORDER BY key") == [
            (CUSTOMER, 1),
            (A, 2),
            (B, 3),
        ]
        assert lake.query("SELECT epoch FROM meta.writer_epoch") == [(2,)]
    assert command(tenant, "ddl", "apply").exit_code == 0


def test_an_interrupt_lets_no_further_stream_be_adopted(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(tenant, FILES | {CUSTOMER: ["k1"]})
    fill(tenant, {TABLE: AB, CUSTOMERS: ["k1"]}, cursor_at(B) | {"shopify.customers": CUSTOMER})
    points: list[str] = []
    interrupted = threading.Event()

    def stop(point: str) -> None:
        points.append(point)
        if (
            points.count("committed") == 4 and point == "committed"
        ):  # the tables of meta, the term, the ledger, the first stream
            os.kill(os.getpid(), signal.SIGINT)
            interrupted.wait(20)

    def interrupt(lake: Lake) -> None:
        del lake
        interrupted.set()

    monkeypatch.setattr(Lake, "interrupt", interrupt)
    fault.arm(stop)
    try:
        assert command(tenant, "adopt", "--apply").exit_code != 0
    finally:
        fault.arm(None)
    with lake_of(tenant) as lake:
        assert lake.query("SELECT DISTINCT stream FROM meta.feeder_files") == [("customers",)]


@pytest.mark.parametrize("moment", ["before", "within"])
def test_a_program_that_still_writes_keeps_it_from_being_adopted(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    land(tenant, FILES)
    fill(tenant, {TABLE: AB}, cursor_at(B))
    whole = Adopter.run

    def run(adopter: Adopter, adoptions: Any) -> Any:
        _add(tenant, ["c1"])
        return whole(adopter, adoptions)

    def write(point: str) -> None:
        if point == "committing":
            fault.arm(None)
            _add(tenant, ["c1"])

    if moment == "before":
        monkeypatch.setattr(Adopter, "run", run)
    else:
        fault.arm(write)
    try:
        status, said = refused(tenant, "--apply")
    finally:
        fault.arm(None)
    assert status == 3, said
    with lake_of(tenant) as lake:
        assert lake.query(f"SELECT count(*) FROM {TABLE}") == [(6,)]
        assert lake.query("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'feeder_files'") == [(0,)]


def test_beside_a_service_nothing_is_adopted(tenant: Tenant, tmp_path: Path) -> None:
    folder = {"LOTUS_SPOOL_DIR": str(tmp_path)}
    with running_service(tenant, **ALONE):
        status, said = refused(tenant, "--apply", **folder)
        assert status == 3
        assert "the writer's lock" in said
        status, document = adopt(tenant, **folder)
        assert (status, {each["state"] for each in document["streams"]}) == (0, {"nothing to adopt"})


def test_a_lost_ledger_comes_back_from_rows_that_say_their_file(tenant: Tenant) -> None:
    land(tenant, FILES)
    with lake_of(tenant) as lake:
        make_old(lake, {TABLE: AB}, None)
        lake.query(f"ALTER TABLE {TABLE} ADD COLUMN _source_file VARCHAR")
        lake.query(f"UPDATE {TABLE} SET _source_file = ? WHERE _airbyte_raw_id LIKE 'a%'", (A,))
        lake.query(f"UPDATE {TABLE} SET _source_file = ? WHERE _airbyte_raw_id = 'b1'", (A,))
    status, document = adopt(tenant, "--apply")
    assert (status, named(document)) == (1, {("elsewhere", TABLE, B, 1, 3, 3)})
    with lake_of(tenant) as lake:
        lake.query(f"UPDATE {TABLE} SET _source_file = ? WHERE _airbyte_raw_id = 'b1'", (B,))
    assert adopt(tenant, "--apply")[0] == 0
    with lake_of(tenant) as lake:
        assert sources(lake) == rows_of({A: FILES[A], B: FILES[B]})
        assert [key for key, *_ in ledger(lake)] == [A, B]


def test_a_column_of_another_case_says_the_file_too(tenant: Tenant) -> None:
    land(tenant, {A: FILES[A]})
    with lake_of(tenant) as lake:
        make_old(lake, {TABLE: FILES[A]}, cursor_at(A))
        lake.query(f"ALTER TABLE {TABLE} ADD COLUMN _Source_File VARCHAR")
    assert adopt(tenant, "--apply")[0] == 0
    done = command(tenant, "ddl", "apply")
    assert done.exit_code == 0, done.output
    with lake_of(tenant) as lake:
        assert sources(lake) == rows_of({A: FILES[A]})


def test_cursors_of_another_shape_are_refused(tenant: Tenant) -> None:
    land(tenant, FILES)
    with lake_of(tenant) as lake:
        make_old(lake, {TABLE: AB}, None)
        lake.query("CREATE SCHEMA meta")
        lake.query("CREATE TABLE meta.feeder_cursors (name VARCHAR, last VARCHAR)")
    status, said = refused(tenant)
    assert status == 3
    for text in ("name, last", "source, stream, cursor_path", "--cursor"):
        assert text in said
