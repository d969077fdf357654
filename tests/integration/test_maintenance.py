"""Maintenance by hand: a lake of many small commits becomes small again, and no row of it changes."""

import json
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from feeders.lake import Lake
from feeders.maintenance import Expire, Merge, Policy, look_at_table, maintain_now, plan_steps
from tests.asking import command
from tests.bucketful import Bucketful
from tests.exact import assert_exact
from tests.lakes import Definitions, count, definitions, open_lake, start_term
from tests.landed import wait_until_loaded
from tests.service import running_service

COMMITS = 40
AT_ONCE = Policy(retention_s=0.0)


def ledger_commits(lake: Lake, name: str, commits: int, *, deletes_from: str) -> int:
    """Makes small commits to the ledger, some of which delete what another one inserted; returns the last snapshot."""
    for number in range(commits):
        with lake.transaction("a commit") as transaction:
            transaction.change(
                "INSERT INTO meta.feeder_files (key, rows) SELECT ? || n, n FROM range(5) AS r(n)",
                (f"{name}{number}-",),
            )
            if number % 7 in (3, 4):
                victim = f"{deletes_from if number % 7 == 3 else name}{number - 1}-%"
                transaction.change("DELETE FROM meta.feeder_files WHERE key LIKE ?", (victim,))
    return newest(lake)


def newest(lake: Lake) -> int:
    return int(lake.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])


def keys(lake: Lake) -> set[str]:
    return {key for (key,) in lake.query("SELECT key FROM meta.feeder_files")}


def keys_changed_since(lake: Lake, snapshot: int) -> set[str]:
    """The keys of the ledger that changed in this snapshot or later."""
    feed = "SELECT key FROM ducklake_table_changes('lakehouse', 'meta', 'feeder_files', ?, ?)"
    return {key for (key,) in lake.query(feed, (snapshot, newest(lake)))}


@pytest.fixture(scope="module")
def defined() -> Definitions:
    return definitions()


def test_small_files_are_merged_and_snapshots_expired_with_every_row_kept(
    tenant: Tenant, defined: Definitions
) -> None:
    lake = open_lake(tenant)
    try:
        start_term(lake, defined)
        half = ledger_commits(lake, "a", COMMITS // 2, deletes_from="nothing")
        at_half = keys(lake)
        with lake.transaction("a model's run") as transaction:
            transaction.change(
                "INSERT INTO meta.transform_cursors (model, input, snapshot_id) VALUES ('m', 'meta.feeder_files', ?)",
                (half,),
            )
        last = ledger_commits(lake, "b", COMMITS // 2, deletes_from="a")
        rows = lake.query("SELECT * FROM meta.feeder_files ORDER BY ALL")
        changed = at_half ^ keys(lake)
        assert changed & at_half, "some of what a model has is gone since"

        steps = plan_steps(lake, AT_ONCE)
        assert Merge(schema="meta", table="feeder_files") in steps
        assert isinstance(steps[0], Expire)
        assert half not in steps[0].snapshots, "the feed begins behind it"
        assert last not in steps[0].snapshots, "the newest"

        done = maintain_now(lake, AT_ONCE)
        assert {str(each.step).split()[0] for each in done} == {"merge", "expire"}
        assert plan_steps(lake, Policy()) == []
        assert look_at_table(lake, "meta", "feeder_files", AT_ONCE).files < Policy().small_files
        assert count(lake, "ducklake_snapshots('lakehouse')") <= 2 + len(done)
        assert lake.query("SELECT * FROM meta.feeder_files ORDER BY ALL") == rows
        # What came and went since then is not in the feed any more: nothing that the model has to know.
        assert changed <= keys_changed_since(lake, half), "the model catches up from where it stood"
        ledger_commits(lake, "c", 1, deletes_from="c")
        assert count(lake, "meta.feeder_files") == len(rows) + 5
    finally:
        lake.close()


def test_a_young_lake_is_left_alone(tenant: Tenant, defined: Definitions) -> None:
    lake = open_lake(tenant)
    try:
        start_term(lake, defined)
        ledger_commits(lake, "a", 3, deletes_from="a")
        assert plan_steps(lake, Policy()) == []
        assert list(maintain_now(lake, Policy())) == []
    finally:
        lake.close()


def test_beside_a_running_service_that_loads(tenant: Tenant, tmp_path: Path) -> None:
    bucketful = Bucketful(tenant=tenant, landing=Landing(seed=3, files=None, rows=(3, 12)))
    with running_service(tenant):
        for _ in range(18):
            bucketful.land(1)
            wait_until_loaded(bucketful)
        planned = command(tenant, "maintain", "--dry-run", "--retention-days", "0", "--json")
        assert planned.exit_code == 0, planned.output
        [line] = [line for line in planned.stdout.splitlines() if line.startswith("[")]
        assert "merge meta.feeder_files" in json.loads(line)
        with bucketful.landing_meanwhile(12, rate=6):
            done = command(tenant, "maintain", "--retention-days", "0")
        assert done.exit_code == 0, done.output
        assert "merge meta.feeder_files" in done.stdout
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
