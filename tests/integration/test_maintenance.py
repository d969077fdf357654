"""Maintenance by hand: a lake of many small commits becomes small again, and no row of it changes."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from feeders.epoch import Epoch
from feeders.errors import LakeError, LakeFenced
from feeders.health import LakeHealth, TableHealth, look
from feeders.lake import Lake
from feeders.maintainer import BUSY_REST, LOOK_AFTER_COMMITS, Maintainer
from feeders.maintenance import Done, Expire, Merge, Policy, Rewrite, Step, look_and_plan, maintain_now
from tests.asking import command
from tests.bucketful import Bucketful
from tests.exact import assert_exact
from tests.helpers import wait_until
from tests.lakes import Definitions, count, definitions, open_lake, start_term
from tests.landed import wait_until_loaded
from tests.processes import consumer_process
from tests.service import running_service

COMMITS = 40
AT_ONCE = Policy(retention_s=0.0, expire_at_least=1, files_a_merge=16)
LEDGER = ("meta", "feeder_files")


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


def ledger_of(lake: Lake) -> TableHealth:
    [table] = [t for t in look(lake.config.catalog, AT_ONCE.tiers).tables if (t.schema, t.table) == LEDGER]
    return table


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

        steps = look_and_plan(lake, AT_ONCE)[1]
        assert Merge(schema="meta", table="feeder_files", tier=0) in steps
        assert isinstance(steps[0], Expire)
        assert half not in steps[0].snapshots, "the feed begins behind it"
        assert last not in steps[0].snapshots, "the newest"

        done = maintain_now(lake, AT_ONCE)
        assert {str(each.step).split()[0] for each in done} == {"merge", "expire"}
        assert look_and_plan(lake, AT_ONCE, expire_at_least=2)[1] == []
        assert ledger_of(lake).files < AT_ONCE.files_a_merge
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
        assert look_and_plan(lake, Policy())[1] == []
        assert list(maintain_now(lake, Policy())) == []
    finally:
        lake.close()


def test_deleted_rows_are_rewritten_away_so_that_their_files_can_be_merged(
    tenant: Tenant, defined: Definitions
) -> None:
    lake = open_lake(tenant)
    try:
        start_term(lake, defined)
        ledger_commits(lake, "a", 20, deletes_from="nothing")
        with lake.transaction("deletes") as transaction:
            transaction.change("DELETE FROM meta.feeder_files WHERE rows = 3")
        rows = lake.query("SELECT * FROM meta.feeder_files ORDER BY ALL")
        assert ledger_of(lake).files_with_deletes >= AT_ONCE.files_a_merge
        done = maintain_now(lake, AT_ONCE)
        assert Rewrite(schema="meta", table="feeder_files") in [each.step for each in done]
        assert ledger_of(lake).files_with_deletes == 0

        assert lake.query("SELECT * FROM meta.feeder_files ORDER BY ALL") == rows
        assert ledger_of(lake).files < AT_ONCE.files_a_merge
    finally:
        lake.close()


def test_time_travel_goes_back_by_hours_and_sees_what_was_there(tenant: Tenant, defined: Definitions) -> None:
    lake = open_lake(tenant)
    try:
        start_term(lake, defined)
        seen = {ledger_commits(lake, str(n), 1, deletes_from="nothing"): keys(lake) for n in range(24)}
        snapshots = sorted(seen)
        # Six in each of four hours, of which the oldest lies beyond the retention.
        ages_h = {snapshot: 4 - number // 6 for number, snapshot in enumerate(snapshots)}
        now = datetime.now(UTC)
        hour = now.replace(minute=0, second=0, microsecond=0)
        with lake.config.catalog.connect(application="test") as catalog:
            for snapshot, hours in ages_h.items():
                catalog.execute(
                    "UPDATE ducklake_snapshot SET snapshot_time = %s WHERE snapshot_id = %s",
                    (hour - timedelta(hours=hours) + timedelta(milliseconds=snapshot), snapshot),
                )
            catalog.execute(
                "UPDATE ducklake_snapshot SET snapshot_time = now() - interval '9 hours' WHERE snapshot_id < %s",
                (snapshots[0],),
            )
        three_and_a_half = now - hour + timedelta(hours=3.5)
        maintain_now(lake, Policy(retention_s=three_and_a_half.total_seconds(), files_a_merge=4))
        left = {number for (number,) in lake.query("SELECT snapshot_id FROM ducklake_snapshots('lakehouse')")}
        kept = {snapshots[11], snapshots[17], snapshots[23]}
        assert kept <= left
        assert not left & (set(snapshots) - kept)
        for snapshot in sorted(kept):
            at = lake.query(f"SELECT key FROM meta.feeder_files AT (VERSION => {snapshot})")
            assert {key for (key,) in at} == seen[snapshot], "as it was, merged or not"
    finally:
        lake.close()


def test_beside_a_running_service_that_loads(tenant: Tenant) -> None:
    bucketful = Bucketful(tenant=tenant, landing=Landing(seed=3, files=None, rows=(3, 12)))
    with running_service(tenant, LOTUS_MAINTENANCE="false", LOTUS_COMMIT_MAX_FILES="1"):
        bucketful.land(Policy().files_a_merge + 4)
        wait_until_loaded(bucketful)
        planned = command(tenant, "maintain", "--dry-run", "--retention-days", "0", "--json")
        assert planned.exit_code == 0, planned.output
        [line] = [line for line in planned.stdout.splitlines() if line.startswith("{")]
        assert "merge meta.feeder_files" in json.loads(line)["steps"]
        with bucketful.landing_meanwhile(12, rate=6):
            done = command(tenant, "maintain", "--retention-days", "0")
        assert done.exit_code == 0, done.output
        assert "merge meta.feeder_files" in done.stdout
        wait_until_loaded(bucketful)
        assert_exact(bucketful)


def test_the_service_does_it_in_its_idle_moments(tenant: Tenant, tmp_path: Path) -> None:
    bucketful = Bucketful(tenant=tenant, landing=Landing(seed=4, files=None, rows=(3, 12)))
    merges = 'lotus_lake_maintenance_seconds_count{step="merge"}'
    with consumer_process(tenant, tmp_path / "log", settings={"LOTUS_COMMIT_MAX_FILES": "1"}) as consumer:
        consumer.wait_for("writer")
        bucketful.land(Policy().files_a_merge + 4)
        wait_until_loaded(bucketful)
        wait_until(lambda: consumer.metric(merges), timeout_s=90, what="a merge")
        assert_exact(bucketful)
        assert consumer.metric('lotus_lake_table_files{table="meta.feeder_files"}') > 0
        assert consumer.metric("lotus_lake_snapshots") > 0
        assert consumer.terminate() == 0, consumer.tail()


class Heard:
    """What a maintainer told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def looked(self, health: LakeHealth) -> None:
        assert health.snapshots
        self.told.append("looked")

    def done(self, done: Done) -> None:
        self.told.append(type(done.step).__name__)

    def failed(self, step: Step | None, error: LakeError) -> None:
        self.told.append(f"failed: {step}: {error}")


def run_all(maintainer: Maintainer, lake: Lake, epoch: Epoch) -> None:
    while maintainer.due_in(idle=True) == 0:
        maintainer.run(lake, epoch)


STEP_S = 2.0


class Working(Heard):
    """Hears at the end of each step, and is its clock: a step takes so long, and nothing else takes time."""

    now = 0.0

    def looked(self, health: LakeHealth) -> None:
        super().looked(health)
        self.now += STEP_S

    def done(self, done: Done) -> None:
        super().done(done)
        self.now += STEP_S


def test_one_step_at_a_time_and_while_keys_wait_a_fifth_of_the_time(
    tenant: Tenant, defined: Definitions
) -> None:
    heard = Working()
    policy = replace(AT_ONCE, keep_all_s=0.0, files_a_merge=4)
    maintainer = Maintainer(policy, heard, clock=lambda: heard.now)
    lake = open_lake(tenant)
    try:
        epoch = start_term(lake, defined)
        ledger_commits(lake, "a", 5, deletes_from="nothing")
        for told in ("looked", "Expire", "Merge"):
            assert maintainer.due_in(idle=False) == 0
            maintainer.run(lake, epoch)
            assert heard.told[-1] == told, "one at a time"
            assert maintainer.due_in(idle=True) != BUSY_REST * STEP_S, "without a rest where no key waits"
            assert maintainer.due_in(idle=False) >= BUSY_REST * STEP_S
            heard.now += BUSY_REST * STEP_S
        assert maintainer.due_in(idle=False) > 0, "nothing to do"

        ledger_commits(lake, "b", 5, deletes_from="nothing")
        for _ in range(LOOK_AFTER_COMMITS):
            maintainer.committed()
        start_term(lake, defined)
        with pytest.raises(LakeFenced):
            run_all(maintainer, lake, epoch)
    finally:
        lake.close()
