"""Takeover (design D1): a writer that was stopped loses the lock, its sessions and its term, in this order."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from consumer.embedded.identity import Tenant
from feeders.catalog import end_other_writers
from feeders.lake import Lake, LakeConfig
from tests.helpers import wait_until
from tests.lakes import lake_config
from tests.probes import ITEMS, lake_of, load_of_items, start, through, write_items
from tests.proxy import TcpProxy
from tests.writer_process import Failed, WriterProcess

LOCK = 7_001
IDLE_TIMEOUT_S = 1.0
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path / "items.parquet", [1, 2])


@pytest.fixture
def config(tenant: Tenant) -> LakeConfig:
    return lake_config(tenant, instance="w-old")


@pytest.fixture
def lake(tenant: Tenant) -> Iterator[Lake]:
    """The next writer's lake."""
    with lake_of(tenant, "w-new") as lake:
        yield lake


def _rows(lake: Lake) -> list[tuple[str, int]]:
    return [
        (key, count) for key, count in lake.query(f"SELECT _source_file, count(*) FROM {ITEMS} GROUP BY ALL")
    ]


def test_a_stopped_writer_loses_lock_sessions_and_term(config: LakeConfig, lake: Lake, items: Path) -> None:
    catalog = config.catalog
    with WriterProcess(config) as old, catalog.connect(application="lotus-lake:lock") as lock:
        first = start(lake, instance="w-old")
        old.ask("lock", LOCK, int(IDLE_TIMEOUT_S * 1000))
        assert old.ask("begin", first, load_of_items(items, "raw/probe/items/a.parquet")) == "loaded"
        # While it lives it keeps the lock for longer than the timeout.
        lock.execute("SELECT set_config('lock_timeout', %s, false)", (f"{int(IDLE_TIMEOUT_S * 2500)}ms",))
        with pytest.raises(psycopg.errors.LockNotAvailable):
            lock.execute("SELECT pg_advisory_lock(%s)", (LOCK,))

        old.pause()
        stopped = time.monotonic()
        lock.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        assert time.monotonic() - stopped < IDLE_TIMEOUT_S + 1
        assert end_other_writers(catalog, instance="w-new") == 1
        second = start(lake, instance="w-new")
        assert second == first + 1
        old.resume()

        # Its open transaction does not commit, a new one is refused, and it has no lock.
        refused = old.ask("commit")
        assert isinstance(refused, Failed)
        assert refused.kind == "LakeConflict"
        again = old.ask("load", first, load_of_items(items, "raw/probe/items/b.parquet"))
        assert isinstance(again, Failed)
        assert again.kind == "LakeFenced"
        assert old.ask("has_lock") is False
        assert _rows(lake) == []
        with lake.transaction("the new writer writes") as transaction:
            transaction.change(f"INSERT INTO {ITEMS} (id, _source_file) VALUES (1, 'c')")
        assert _rows(lake) == [("c", 1)]


def test_without_a_timeout_of_its_session_a_stopped_writer_keeps_the_lock(
    config: LakeConfig, lake: Lake
) -> None:
    with WriterProcess(config) as old, config.catalog.connect(application="lotus-lake:lock") as lock:
        old.ask("lock", LOCK, 0)
        old.pause()
        lock.execute("SET lock_timeout = '3s'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            lock.execute("SELECT pg_advisory_lock(%s)", (LOCK,))


def test_a_writer_stopped_before_its_commit_blocks_all_others_until_its_session_is_ended(
    config: LakeConfig, tenant: Tenant, lake: Lake, items: Path
) -> None:
    first = start(lake, instance="w-old")
    with (
        TcpProxy(config.catalog.host, config.catalog.port) as proxy,
        WriterProcess(through(config, proxy.port)) as old,
        config.catalog.connect(application="watch") as watch,
    ):
        old.ask("begin", first, load_of_items(items, "raw/probe/items/a.parquet"))
        held = proxy.hold_before(COMMIT)
        old.tell("commit")
        held.result(10)

        thread = threading.Thread(target=lambda: start(lake, instance="w-new"))
        thread.start()

        def is_blocked() -> bool:
            waiting = watch.execute(
                "SELECT 1 FROM pg_stat_activity WHERE application_name = 'lotus-lake:w-new'"
                " AND wait_event_type = 'Lock'"
            )
            return waiting.fetchone() is not None

        wait_until(is_blocked, what="the new writer's commit waits for the old one's")
        assert end_other_writers(config.catalog, instance="w-new") == 1
        thread.join(10)
        assert not thread.is_alive()
        proxy.release()
        refused = old.answer()
        assert isinstance(refused, Failed)
        assert refused.kind == "LakeConflict"
        assert lake.query("SELECT epoch, instance FROM meta.writer_epoch") == [(first + 1, "w-new")]
        assert _rows(lake) == []
