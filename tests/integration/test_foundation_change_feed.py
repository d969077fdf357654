"""The change feed (design, Transforms): complete as a set of keys, useless as a log, and where it is silent.

A model's cursor is the snapshot up to which an input is in it, so its next span starts one after that.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from consumer.embedded.identity import Tenant
from feeders.errors import StatementFailed
from feeders.feed import feed_sql, read_deletions
from feeders.lake import Lake, Row
from tests.helpers import examples
from tests.probes import lake_of

EXPIRED = "No snapshot found at version"


@pytest.fixture
def lake(tenant: Tenant) -> Iterator[Lake]:
    with lake_of(tenant, "w-test") as lake:
        lake.query("CREATE TABLE main.t (k VARCHAR, v BIGINT)")
        yield lake


def _now(lake: Lake) -> int:
    return int(lake.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])


def _do(lake: Lake, *statements: str) -> int:
    """Runs statements in one transaction; returns the snapshot that it made."""
    with lake.transaction("a change") as transaction:
        for statement in statements:
            transaction.query(statement)
    return _now(lake)


def _feed(lake: Lake, first: int, last: int) -> list[Row]:
    """As the models read it."""
    feed = feed_sql("main.t", first, last, deletions=read_deletions(lake))
    return lake.query(f"SELECT change_type, k, v FROM {feed} ORDER BY ALL")


def _keys(lake: Lake, first: int, last: int) -> set[str]:
    return {row[1] for row in _feed(lake, first, last)}


def _expire(lake: Lake, *versions: int) -> None:
    # Counted, since DuckDB's Python client needs pytz to fetch a timestamp with time zone.
    wanted = ", ".join(str(version) for version in versions)
    lake.query(f"SELECT count(*) FROM ducklake_expire_snapshots('lakehouse', versions => [{wanted}])")


def _merge(lake: Lake) -> None:
    lake.query("SELECT count(*) FROM ducklake_merge_adjacent_files('lakehouse', 't', schema => 'main')")


def _rewrite(lake: Lake) -> None:
    lake.query(
        "SELECT count(*) FROM ducklake_rewrite_data_files('lakehouse', 't', schema => 'main',"
        " delete_threshold => 0.01)"
    )


def test_no_key_is_missed_over_merges_rewrites_overwrites_and_a_new_column(lake: Lake) -> None:
    dice = random.Random(7)
    changed: dict[int, set[str]] = {}
    start = _now(lake)
    for number in range(30):
        keys = {f"k{dice.randrange(12)}" for _ in range(dice.randrange(1, 4))}
        listed = ", ".join(f"'{key}'" for key in sorted(keys))
        delete = f"DELETE FROM main.t WHERE k IN ({listed})"
        insert = f"INSERT INTO main.t (k, v) SELECT unnest([{listed}]), {number}"
        match dice.choice(("insert", "overwrite", "overwrite", "delete", "update", "merge", "rewrite")):
            case "insert":
                changed[_do(lake, insert)] = keys
            case "overwrite":
                changed[_do(lake, delete, insert)] = keys
            case "delete" | "update" as how:
                there = {row[0] for row in lake.query(f"SELECT k FROM main.t WHERE k IN ({listed})")}
                update = f"UPDATE main.t SET v = v + 1 WHERE k IN ({listed})"
                if there:
                    changed[_do(lake, delete if how == "delete" else update)] = there
            case "merge":
                _merge(lake)
            case _:
                _rewrite(lake)
        if number == 15:
            _do(lake, "ALTER TABLE main.t ADD COLUMN w BIGINT")
    end = _now(lake)
    for _ in range(examples(20)):
        first = dice.randrange(start + 1, end + 1)
        last = dice.randrange(first, end + 1)
        expected = {key for snapshot, keys in changed.items() if first <= snapshot <= last for key in keys}
        assert _keys(lake, first, last) >= expected, (first, last)


@pytest.mark.parametrize("seed", range(examples(4)))
def test_of_a_key_that_only_came_no_row_went_and_all_that_came_are_told(lake: Lake, seed: int) -> None:
    """Over merges, rewrites and expiries of all but the spans' ends. Of rows that stayed it may tell again."""
    dice = random.Random(seed)
    since, seen = _now(lake), 0
    for number in range(60):
        listed = ", ".join(f"'k{dice.randrange(30)}'" for _ in range(dice.randrange(1, 4)))
        _change(lake, dice, f"WHERE k IN ({listed})", f"SELECT unnest([{listed}]), {number}", keep=since)
        if dice.random() < 0.5:
            continue
        end = _now(lake)
        was, now = _rows_at(lake, since), _rows_at(lake, end)
        told: defaultdict[str, list[Row]] = defaultdict(list)
        for change, key, value in _feed(lake, since, end):
            told[key].append((change, value))
        for key in was.keys() | now.keys() | told.keys():
            if any(change != "insert" for change, _ in told[key]):
                continue
            came = Counter(value for _, value in told[key])
            assert was[key] <= now[key], (number, key)
            assert now[key] - was[key] <= came <= now[key], (number, key)
            seen += bool(came)
        since = end
    assert seen


def _change(lake: Lake, dice: random.Random, where: str, rows: str, *, keep: int) -> None:
    delete, insert = f"DELETE FROM main.t {where}", f"INSERT INTO main.t (k, v) {rows}"
    match dice.choice(
        ("insert", "insert", "insert", "overwrite", "delete", "update", "merge", "rewrite", "expire")
    ):
        case "insert":
            _do(lake, insert)
        case "overwrite":
            _do(lake, delete, insert)
        case "delete":
            _do(lake, delete)
        case "update":
            _do(lake, f"UPDATE main.t SET v = v + 1000 {where}")
        case "merge":
            _merge(lake)
        case "rewrite":
            _rewrite(lake)
        case _:
            kept = {keep, _now(lake)}
            known = {
                version
                for (version,) in lake.query("SELECT snapshot_id FROM ducklake_snapshots('lakehouse')")
            }
            if old := [version for version in sorted(known - kept) if dice.random() < 0.8]:
                _expire(lake, *old)


def _rows_at(lake: Lake, version: int) -> defaultdict[str, Counter[int]]:
    """The values of each key at a snapshot."""
    found: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for key, value in lake.query(f"SELECT k, v FROM main.t AT (VERSION => {version})"):
        found[key][value] += 1
    return found


def test_an_overwrite_in_one_transaction_has_both_images(lake: Lake) -> None:
    _do(lake, "INSERT INTO main.t VALUES ('a', 1), ('b', 1)")
    snapshot = _do(lake, "DELETE FROM main.t WHERE k = 'a'", "INSERT INTO main.t VALUES ('a', 2)")
    assert _feed(lake, snapshot, snapshot) == [("delete", "a", 1), ("insert", "a", 2)]


def test_a_rewrite_shows_rows_that_nobody_changed(lake: Lake) -> None:
    """So only the keys can be used, and a maintenance run costs models the work of its files' keys."""
    _do(lake, "INSERT INTO main.t SELECT 'k' || i, 1 FROM range(4) AS r(i)")
    deleted = _do(lake, "DELETE FROM main.t WHERE k = 'k1'")
    _rewrite(lake)
    assert _feed(lake, deleted, deleted) == [("delete", "k1", 1)]
    assert {row[0] for row in _feed(lake, deleted + 1, _now(lake))} == {"insert", "delete"}
    assert _keys(lake, deleted + 1, _now(lake)) == {"k0", "k2", "k3"}


def test_a_merge_shows_nothing(lake: Lake) -> None:
    for key in ("a", "b", "c"):
        last = _do(lake, f"INSERT INTO main.t VALUES ('{key}', 1)")
    _merge(lake)
    merged = _now(lake)
    assert merged == last + 1
    assert _feed(lake, merged, merged) == []
    assert _keys(lake, last, merged) == {"c"}


def test_a_span_without_a_snapshot_raises_and_one_without_changes_is_empty(lake: Lake) -> None:
    changed = _do(lake, "INSERT INTO main.t VALUES ('a', 1)")
    for first, last in ((changed + 1, changed), (changed + 1, changed + 1)):
        with pytest.raises(StatementFailed, match=EXPIRED):
            _feed(lake, first, last)
    other = _do(lake, "CREATE TABLE main.other (id BIGINT)")
    assert _feed(lake, other, other) == []


def test_the_running_transactions_own_rows_are_not_in_the_feed(lake: Lake) -> None:
    before = _do(lake, "INSERT INTO main.t VALUES ('a', 1)")
    feed = "SELECT k FROM ducklake_table_changes('lakehouse', 'main', 't', ?, ?)"
    with lake.transaction("changes and looks") as transaction:
        transaction.change("INSERT INTO main.t VALUES ('b', 1)")
        assert transaction.query(feed, (before, before)) == [("a",)]
    with pytest.raises(StatementFailed, match=EXPIRED), lake.transaction("looks") as transaction:
        transaction.query(feed, (before + 1, before + 2))


def test_an_expired_end_of_a_span_raises_and_what_lies_between_does_not_matter(lake: Lake) -> None:
    first, second, third = (_do(lake, f"INSERT INTO main.t VALUES ('{key}', 1)") for key in "abc")
    _expire(lake, second)
    assert _keys(lake, first, third) == {"a", "b", "c"}
    for span in ((second, third), (first, second), (second, second)):
        with pytest.raises(StatementFailed, match=EXPIRED):
            _feed(lake, *span)


def test_a_deletion_is_lost_in_silence_when_the_snapshot_before_it_expired(lake: Lake) -> None:
    """The rows of a file that no snapshot holds any more are in no feed, though the span itself is there.

    So it does not do that the span's own snapshots are there: the cursor's, one before, has to be kept as well,
    and its absence means a rebuild.
    """
    for key in ("a", "b"):
        cursor = _do(lake, f"INSERT INTO main.t VALUES ('{key}', 1)")
    deleted = _do(lake, "DELETE FROM main.t WHERE k = 'a'")
    assert deleted == cursor + 1
    end = _do(lake, "INSERT INTO main.t VALUES ('c', 1)")
    _expire(lake, *range(cursor))
    assert _keys(lake, deleted, end) == {"a", "c"}
    _expire(lake, cursor)
    assert _keys(lake, deleted, end) == {"c"}


def test_create_or_replace_cuts_the_feed_in_silence(lake: Lake) -> None:
    first = _do(lake, "INSERT INTO main.t VALUES ('a', 1)")
    last = _do(
        lake, "CREATE OR REPLACE TABLE main.t (k VARCHAR, v BIGINT)", "INSERT INTO main.t VALUES ('b', 1)"
    )
    assert _keys(lake, first, last) == {"b"}
