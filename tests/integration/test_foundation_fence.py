"""The fence (design D2): of two overlapping transactions one fails, and a term's end stops what it had begun."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from feeders.append import apply_batch
from feeders.epoch import Epoch, raise_epoch, require_epoch
from feeders.errors import LakeConflict, LakeFenced
from feeders.lake import Lake
from feeders.ledger import LedgerClock
from feeders.streams import StreamId
from feeders.work import Load
from tests.lakes import lake_config
from tests.probes import ITEMS, STREAM, lake_of, load_of_items, start, write_items
from tests.writer_process import WriterProcess

A = "raw/probe/items/a.parquet"
STREAMS = tuple(
    replace(
        STREAM, id=StreamId(source="probe", stream=f"items{number}"), landing=(f"raw/probe/items{number}",)
    )
    for number in range(5)
)
KEYS_OF_EACH = 2


@dataclass(frozen=True, kw_only=True)
class Two:
    """Two instances on one lake, each in a DuckDB of its own; `epoch` is the first one's term."""

    old: Lake
    new: Lake
    epoch: Epoch


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path / "items.parquet", [1, 2])


@pytest.fixture
def two(tenant: Tenant) -> Iterator[Two]:
    with lake_of(tenant, "w-old") as old, lake_of(tenant, "w-new") as new:
        yield Two(old=old, new=new, epoch=start(old, instance="w-old"))


def _load(lake: Lake, load: Load, epoch: Epoch, meanwhile: Callable[[], object] = bool) -> None:
    """Loads in one transaction; `meanwhile` happens just before its COMMIT."""
    with lake.transaction("a load") as transaction:
        apply_batch(transaction, [load], epoch=epoch, clock=LedgerClock(), open_failures=set())
        meanwhile()


def _run(
    lake: Lake, statements: Sequence[str], epoch: Epoch | None = None, meanwhile: Callable[[], object] = bool
) -> None:
    """The same for statements."""
    with lake.transaction("statements") as transaction:
        if epoch is not None:
            require_epoch(transaction, epoch)
        for statement in statements:
            transaction.change(statement)
        meanwhile()


def _files(lake: Lake) -> list[tuple[str, int]]:
    return [
        (key, rows)
        for key, rows in lake.query(f"SELECT _source_file, count(*) FROM {ITEMS} GROUP BY ALL ORDER BY ALL")
    ]


def _begin_new_term(lake: Lake) -> Epoch:
    with lake.transaction("a new term") as transaction:
        return raise_epoch(transaction, instance="w-new")


def test_two_processes_race_for_the_same_keys_and_each_is_loaded_once(tenant: Tenant, items: Path) -> None:
    """The first load of every stream among them, when its cursor is still empty."""
    config = lake_config(tenant, instance="w-one")
    keys: list[str] = []
    with (
        lake_of(tenant, "w-main") as lake,
        WriterProcess(config) as one,
        WriterProcess(replace(config, instance="w-two")) as two,
    ):
        epoch = start(lake, instance="w-main", streams=STREAMS)
        conflicts = 0
        for number in range(KEYS_OF_EACH):
            for stream in STREAMS:
                load = load_of_items(items, f"{stream.landing[0]}/{number}.parquet", stream=stream)
                for process in (one, two):
                    process.tell("load", epoch, load)
                assert {one.answer(), two.answer()} == {"loaded", "duplicate"}
                keys.append(load.version.key)
        for process in (one, two):
            conflicts += int(str(process.ask("conflicts")))
        assert conflicts > len(keys) / 2, "the processes hardly met"
        assert _files(lake) == [(key, 2) for key in sorted(keys)]
        ledger = lake.query("SELECT key, count(*) FROM meta.feeder_files GROUP BY ALL ORDER BY ALL")
        assert ledger == [(key, 1) for key in sorted(keys)]
        cursors = lake.query("SELECT stream, files, rows FROM meta.feeder_cursors ORDER BY ALL")
        assert cursors == [(each.id.stream, KEYS_OF_EACH, 2 * KEYS_OF_EACH) for each in STREAMS]


def test_a_load_begun_before_a_takeover_loads_nothing_after_it(two: Two, items: Path) -> None:
    """The epoch alone does it: no session is ended here, and the two touch no row in common."""
    load = load_of_items(items, A)
    with pytest.raises(LakeConflict):
        _load(two.old, load, two.epoch, meanwhile=lambda: _begin_new_term(two.new))
    with pytest.raises(LakeFenced):
        _load(two.old, load, two.epoch)
    assert _files(two.new) == []
    assert two.new.query("SELECT * FROM meta.feeder_files") == []


def test_a_transform_begun_before_a_takeover_leaves_nothing(two: Two) -> None:
    """Whether the table of its cursors is empty, has its row, or another row in another file."""
    two.old.query("CREATE TABLE main.int_items (id BIGINT)")
    transform = (
        "DELETE FROM main.int_items",
        "INSERT INTO main.int_items VALUES (1)",
        "DELETE FROM meta.transform_cursors WHERE model = 'int_items'",
        "INSERT INTO meta.transform_cursors (model, snapshot_id) VALUES ('int_items', 2)",
    )
    epoch = two.epoch
    for model in ("", "int_others", "int_items"):
        if model:
            two.old.query("INSERT INTO meta.transform_cursors (model, snapshot_id) VALUES (?, 1)", (model,))
        with pytest.raises(LakeConflict):
            _run(two.old, transform, epoch, meanwhile=lambda: _begin_new_term(two.new))
        with pytest.raises(LakeFenced):
            _run(two.old, transform, epoch)
        assert two.new.query("SELECT * FROM main.int_items") == []
        assert two.new.query("SELECT * FROM meta.transform_cursors WHERE snapshot_id = 2") == []
        epoch = Epoch(epoch + 1)


def test_without_ducklakes_retries_any_two_overlapping_commits_exclude_each_other(two: Two) -> None:
    """All commits race for the next snapshot id, so even two that have no table in common do.

    Said as a conflict, though DuckLake's own text is `Could not remove file`: the loader may not.
    """
    two.old.query("CREATE TABLE main.one (id BIGINT)")
    two.old.query("CREATE TABLE main.other (id BIGINT)")
    with pytest.raises(LakeConflict):
        _run(
            two.old,
            ["INSERT INTO main.one VALUES (1)"],
            meanwhile=lambda: two.new.query("INSERT INTO main.other VALUES (1)"),
        )
    assert two.new.query("SELECT * FROM main.one") == []


DELETE_AND_INSERT = ("DELETE FROM main.t WHERE k = {!r}", "INSERT INTO main.t VALUES ({!r})")
DELETE_NOTHING = ("DELETE FROM main.t WHERE k = 'nothing'", "INSERT INTO main.t VALUES ({!r})")
INSERT = ("INSERT INTO main.t VALUES ({!r})",)


def test_with_ducklakes_retries_only_a_delete_that_removed_something_excludes(two: Two) -> None:
    """What a foreign session does, so the fence must hold against it too: cursors have a row from the start.

    The check is of tables and not of rows or files: here each transaction has its own.
    """
    two.new.query("CREATE TABLE main.t (k VARCHAR)")
    for key in ("a", "b"):
        two.new.query("INSERT INTO main.t VALUES (?)", (key,))

    def conflicts(first: Sequence[str], second: Sequence[str]) -> bool:
        two.old.query("SET ducklake_max_retry_count = 10")
        try:
            _run(
                two.old,
                [statement.format("a") for statement in first],
                meanwhile=lambda: _run(two.new, [statement.format("b") for statement in second]),
            )
        except LakeConflict:
            return True
        return False

    assert conflicts(DELETE_AND_INSERT, DELETE_AND_INSERT)
    assert conflicts(INSERT, DELETE_AND_INSERT)
    assert conflicts(DELETE_AND_INSERT, INSERT)
    assert conflicts(DELETE_NOTHING, DELETE_AND_INSERT)
    assert not conflicts(DELETE_NOTHING, DELETE_NOTHING)
    assert not conflicts(INSERT, INSERT)


@pytest.mark.parametrize("retries", [0, 10])
def test_an_expiry_blinds_ducklakes_retries_and_not_ours(two: Two, items: Path, retries: int) -> None:
    """The conflict check of a retry looks into the snapshots since; expired ones tell it nothing."""
    load = load_of_items(items, A)

    def load_and_expire() -> None:
        _load(two.new, load, two.epoch)
        two.new.query("INSERT INTO meta.transform_cursors (model) VALUES ('one more snapshot')")
        two.new.query("SELECT count(*) FROM ducklake_expire_snapshots('lakehouse', older_than => now())")

    two.old.query(f"SET ducklake_max_retry_count = {retries}")
    if retries:
        _load(two.old, load, two.epoch, meanwhile=load_and_expire)
        assert _files(two.new) == [(A, 4)]  # loaded twice
    else:
        with pytest.raises(LakeConflict):
            _load(two.old, load, two.epoch, meanwhile=load_and_expire)
        assert _files(two.new) == [(A, 2)]
