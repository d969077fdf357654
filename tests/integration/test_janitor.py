"""The janitor: files that nobody needs leave the bucket, after their time, and no others."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from consumer.embedded.identity import Tenant
from feeders.health import look
from feeders.janitor import clean, find_orphans, janitor_config, remove_orphans
from feeders.lake import Lake, LakeError, ObjectStore, StatementFailed, Transaction
from feeders.maintenance import Policy, maintain_now
from tests.http_proxy import HttpProxy
from tests.lakes import count, definitions, lake_config, open_lake, start_term

POLICY = Policy(retention_s=0.0, files_a_merge=4)
ROWS = [(f"{number}",) for number in range(12)]


def open_janitor(tenant: Tenant, endpoint: str | None = None) -> Lake:
    store = ObjectStore(
        endpoint=endpoint or tenant.endpoints.s3_url,
        access_key_id=tenant.janitor.access_key_id,
        secret_access_key=tenant.janitor.secret_access_key,
    )
    return Lake(janitor_config(lake_config(tenant), store, instance="j-test"))


@pytest.fixture
def lake(tenant: Tenant) -> Iterator[Lake]:
    """A lake that was merged and expired: files wait to be removed."""
    lake = open_lake(tenant)
    try:
        start_term(lake, definitions())
        for row in ROWS:
            with lake.transaction("a commit") as transaction:
                transaction.change("INSERT INTO meta.feeder_files (key) VALUES (?)", row)
        maintain_now(lake, POLICY)
        yield lake
    finally:
        lake.close()


def fail_after_a_write(transaction: Transaction) -> None:
    transaction.change("INSERT INTO meta.feeder_files (key) VALUES ('lost')")
    transaction.query("SELECT no_column")


def waiting(lake: Lake) -> int:
    return look(lake.config.catalog, POLICY.tiers).removable_files


def objects(lake: Lake) -> int:
    return count(lake, "glob('s3://" + lake.config.data_path.removeprefix("s3://") + "**/*.parquet')")


def assert_all_rows(lake: Lake) -> None:
    assert sorted(lake.query("SELECT key FROM meta.feeder_files")) == sorted(ROWS)


def test_files_go_after_their_time_and_commits_go_on_meanwhile(tenant: Tenant, lake: Lake) -> None:
    waited, before = waiting(lake), objects(lake)
    assert waited >= len(ROWS)
    janitor = open_janitor(tenant)
    try:
        assert clean(janitor, after_s=3600).files == 0, "not before"
        snapshots = lake.query("SELECT max(snapshot_id) FROM ducklake_snapshots('lakehouse')")
        with lake.transaction("a commit in flight") as transaction:
            transaction.change("INSERT INTO meta.feeder_files (key) VALUES ('in flight')")
            assert clean(janitor, after_s=0).files == waited
        assert lake.query("SELECT max(snapshot_id) - 1 FROM ducklake_snapshots('lakehouse')") == snapshots
        assert (waiting(lake), objects(lake)) == (0, before + 1 - waited)
        lake.query("DELETE FROM meta.feeder_files WHERE key = 'in flight'")
        assert_all_rows(lake)
        assert not clean(janitor, after_s=0, may_go_on=lambda: False).steps
    finally:
        janitor.close()


def test_an_object_store_that_fails_in_its_midst_loses_nothing(tenant: Tenant, lake: Lake) -> None:
    at = urlsplit(tenant.endpoints.s3_url)
    with HttpProxy(str(at.hostname), int(at.port or 0), seed=1) as proxy:
        janitor = open_janitor(tenant, proxy.url)
        try:
            assert count(janitor, "meta.feeder_files") == len(ROWS)
            proxy.spoil("half", share=1.0)
            with pytest.raises(LakeError):
                clean(janitor, after_s=0)
            assert waiting(lake) >= len(ROWS), "still on the list"
            proxy.spoil(None)
            clean(janitor, after_s=0)
        finally:
            janitor.close()
    assert waiting(lake) == 0
    assert_all_rows(lake)


def test_orphans_are_found_and_removed_on_a_persons_word_only(tenant: Tenant, lake: Lake) -> None:
    with pytest.raises(StatementFailed), lake.transaction("fails") as transaction:
        fail_after_a_write(transaction)
    janitor = open_janitor(tenant)
    try:
        clean(janitor, after_s=0)
        assert find_orphans(janitor, older_than_s=3600) == [], "it may be of a transaction in flight"
        [orphan] = find_orphans(janitor, older_than_s=0)
        assert orphan.startswith(lake.config.data_path)
        before = objects(lake)
        assert remove_orphans(janitor, older_than_s=0) == 1
        assert objects(lake) == before - 1
    finally:
        janitor.close()
    assert_all_rows(lake)


def test_the_loader_can_not_clean(lake: Lake) -> None:
    with pytest.raises(LakeError):
        clean(lake, after_s=0)
    assert waiting(lake) >= len(ROWS)
    assert_all_rows(lake)
