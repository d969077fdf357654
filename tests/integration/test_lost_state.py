"""The neighbours lose their state while the consumer runs: all that landed is loaded, once, without a human.

The sweep by interval is off: only what notices the loss can lead to one.
"""

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import nats
import pytest
from psycopg import sql

from consumer.broker import Broker, Delivery
from consumer.connections import broker_config
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.errors import Unavailable
from consumer.events import KeyEvent
from consumer.landing.generate import Landing
from feeders.catalog import look_at_snapshots
from feeders.lake import Lake, LakeUnavailable, Watermark
from tests.bucketful import Bucketful
from tests.documents import DOCS, blocks
from tests.exact import assert_exact
from tests.following import postgres_programs
from tests.helpers import wait_until
from tests.key_queue import pending
from tests.lakes import definitions, lake_config, start_term
from tests.landed import wait_until_loaded
from tests.processes import ConsumerProcess, consumer_process
from tests.service import ORDERS, settings_of

NO_INTERVAL = {"LOTUS_SWEEP_INTERVAL_S": "0"}
GAP_TIMEOUT_S = 60.0


@pytest.fixture
def bucketful(tenant: Tenant) -> Bucketful:
    return Bucketful(tenant=tenant, landing=Landing(seed=5, files=None, rows=(3, 12)))


class CatalogDump:
    """The catalog at one moment, by the commands of docs/deployment.md."""

    def __init__(self, stack: Stack, tenant: Tenant, folder: Path) -> None:
        self._stack = stack
        self._tenant = tenant
        self._folder = folder
        self._do("backup")

    def restore(self) -> None:
        """Puts the tables back in one transaction, under the open sessions of whoever has them."""
        self._do("restore-running")

    def restore_into_empty(self) -> None:
        """Puts all into a new database of that name; nobody may be at work in the old one."""
        self._do("restore")

    def fail_over(self) -> None:
        """Cuts all sessions of the catalog and restores it: a standby took over that lacked the last commits."""
        self._cut()
        self.restore()
        self._cut()

    def _cut(self) -> None:
        with self._stack.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                (self._tenant.catalog.database,),
            )

    def _do(self, word: str) -> None:
        """Runs the document's block with this word, with the tenant's name for that of database and role."""
        catalog = self._tenant.catalog
        assert catalog.database == catalog.user
        [block] = [block for block in blocks(DOCS / "deployment.md") if block.has(word)]
        with self._stack.connect() as connection:
            environment = {
                "PATH": os.pathsep.join([str(postgres_programs()), os.defpath]),
                "PGHOST": catalog.host,
                "PGPORT": str(catalog.port),
                "PGUSER": connection.info.user,
                "PGPASSWORD": connection.info.password,
            }
        command = ["bash", "-euc", block.text.replace("ducklake", catalog.database)]
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def wait_for_sweep(consumer: ConsumerProcess, reason: str) -> None:
    wait_until(
        lambda: consumer.metric(f'lotus_lake_sweeps_total{{reason="{reason}"}}') > 0,
        timeout_s=GAP_TIMEOUT_S,
        what=f"a sweep for {reason}",
    )


def test_the_folder_of_jetstream_is_deleted(stack: Stack, bucketful: Bucketful, tmp_path: Path) -> None:
    # Few keys at a time, so that most of them wait in the queue when it is lost.
    slow = {"LOTUS_WORKER_SLOTS": "9", "LOTUS_WORKER_READS": "1", "LOTUS_COMMIT_MIN_INTERVAL_MS": "2000"}
    with consumer_process(bucketful.tenant, tmp_path / "log", settings=NO_INTERVAL | slow) as consumer:
        bucketful.land(3)
        wait_until_loaded(bucketful)
        bucketful.land(24, rate=0)
        waiting = pending(bucketful.tenant, bucketful.defined.streams)
        stack.nats.kill()
        shutil.rmtree(stack.folder / "nats" / "data")
        bucketful.land(3)
        stack.nats.start()
        bucketful.land(3)
        wait_for_sweep(consumer, "queue_lost")
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert waiting > 0, "nothing was in the queue that was lost"
        assert consumer.terminate() == 0, consumer.tail()


async def test_a_verdict_on_a_key_of_the_lost_queue_hits_no_other_key(tenant: Tenant) -> None:
    """Positions are given out again: the old key's ack would take the new one off the queue, unread."""
    broker = await Broker.connect(broker_config(settings_of(tenant), "lost"))

    async def claim(key: str) -> Delivery:
        event = KeyEvent(
            event="created", bucket="b", key=key, found_by="sweep", sent_at=datetime.now(UTC), etag="e"
        )
        assert await broker.publish_key(event, ORDERS)
        [delivery] = await broker.fetch(ORDERS, 1, 10.0)
        return delivery

    try:
        assert await broker.ensure()
        await broker.subscribe([ORDERS])
        old = await claim("old")
        first = await broker.queue_made_at()
        client = await nats.connect(
            tenant.endpoints.nats_url, user=tenant.nats_user, password=tenant.nats_password
        )
        await client.jetstream().delete_stream(f"{tenant.namespace}_keys")
        await client.close()
        assert await broker.queue_made_at() is None
        assert await broker.ensure()
        await broker.subscribe([ORDERS])
        assert await broker.queue_made_at() != first
        new = await claim("new")
        assert new.sequence == old.sequence
        with pytest.raises(Unavailable, match="made anew"):
            await old.done()
        assert sum(await broker.pending(ORDERS)) == 1
        await new.done()
        assert sum(await broker.pending(ORDERS)) == 0
    finally:
        await broker.close()


@pytest.mark.timeout(240)
def test_the_catalog_is_restored_from_a_dump(stack: Stack, bucketful: Bucketful, tmp_path: Path) -> None:
    with consumer_process(bucketful.tenant, tmp_path / "log", settings=NO_INTERVAL) as consumer:
        bucketful.land(8)
        wait_until_loaded(bucketful)
        dump = CatalogDump(stack, bucketful.tenant, tmp_path)
        bucketful.land(8)
        wait_until_loaded(bucketful)
        # Nothing lands: the consumer's open DuckDB has no reason to look.
        dump.restore()
        wait_for_sweep(consumer, "catalog_went_back")
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert consumer.terminate() == 0, consumer.tail()
    # Nobody is connected: as a person restores it.
    dump.restore_into_empty()
    with consumer_process(bucketful.tenant, tmp_path / "log2", settings=NO_INTERVAL) as consumer:
        # What was loaded after the last look at the catalog is found by the sweep of each start.
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert consumer.terminate() == 0, consumer.tail()


@pytest.mark.faults
def test_the_catalog_is_restored_in_the_midst_of_a_landing(
    stack: Stack, bucketful: Bucketful, tmp_path: Path
) -> None:
    with consumer_process(bucketful.tenant, tmp_path / "log", settings=NO_INTERVAL) as consumer:
        bucketful.land(8)
        wait_until_loaded(bucketful)
        dump = CatalogDump(stack, bucketful.tenant, tmp_path)
        bucketful.land(8)
        wait_until_loaded(bucketful)
        with bucketful.landing_meanwhile(12, rate=6):
            dump.restore()
        wait_for_sweep(consumer, "catalog_went_back")
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert consumer.terminate() == 0, consumer.tail()


def test_the_next_transaction_finds_out(stack: Stack, tenant: Tenant, tmp_path: Path) -> None:
    """What was committed a moment ago is known exactly, also when the catalog has grown again since."""
    heard: list[tuple[int, int]] = []
    watermark = Watermark(lambda found, seen: heard.append((found, seen)))
    lake = Lake(lake_config(tenant), watermark)
    start_term(lake, definitions(), instance="w-lost")

    def commit(key: str) -> int:
        with lake.transaction(key) as transaction:
            transaction.change("INSERT INTO meta.feeder_files (key) VALUES (?)", (key,))
        return watermark.newest

    try:
        kept = commit("kept")
        with lake.transaction("nothing"):
            pass
        assert watermark.newest == kept, "a transaction that changes nothing makes no snapshot"
        dump = CatalogDump(stack, tenant, tmp_path)
        lost = commit("lost")
        catalog = lake.config.catalog
        seen, _ = look_at_snapshots(catalog, marked=None)
        assert seen is not None
        assert (seen.id, lost) == (kept + 1, kept + 1)
        dump.restore()
        with pytest.raises(LakeUnavailable, match=f"went back to snapshot {kept}, {lost} was seen"):
            commit("refused")
        assert heard == [(kept, lost)]
        assert commit("again") == lost
        assert commit("more") == lost + 1
        assert lake.query("SELECT key FROM meta.feeder_files ORDER BY key") == [
            ("again",),
            ("kept",),
            ("more",),
        ]
        newest, marked = look_at_snapshots(catalog, marked=seen.id)
        assert newest is not None
        assert newest.id > seen.id
        assert marked is not None
        assert marked.id == seen.id
        assert marked.made_at != seen.made_at, "the number was given out again, at another time"
    finally:
        lake.close()


@pytest.mark.faults
def test_a_failover_lost_the_last_five_commits(stack: Stack, bucketful: Bucketful, tmp_path: Path) -> None:
    with consumer_process(bucketful.tenant, tmp_path / "log", settings=NO_INTERVAL) as consumer:
        bucketful.land(6)
        wait_until_loaded(bucketful)
        dump = CatalogDump(stack, bucketful.tenant, tmp_path)
        for _ in range(5):
            bucketful.land(1)
            wait_until_loaded(bucketful)
        with bucketful.landing_meanwhile(6, rate=6):
            dump.fail_over()
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert consumer.terminate() == 0, consumer.tail()


@pytest.mark.faults
def test_a_catalog_that_is_empty_for_a_while_is_waited_for(
    stack: Stack, bucketful: Bucketful, tmp_path: Path
) -> None:
    """Whoever restores a catalog drops its tables first: a new lake made meanwhile would be in the way."""
    log = tmp_path / "log"
    with consumer_process(bucketful.tenant, log, settings=NO_INTERVAL) as consumer:
        bucketful.land(3)
        wait_until_loaded(bucketful)
        dump = CatalogDump(stack, bucketful.tenant, tmp_path)
        with stack.connect(bucketful.tenant.catalog.database) as connection:
            tables = connection.execute(
                "SELECT relname FROM pg_class WHERE relname LIKE 'ducklake%' AND relkind = 'r'"
            ).fetchall()
            connection.execute(
                sql.SQL("DROP TABLE {}").format(
                    sql.SQL(", ").join(sql.Identifier(name) for (name,) in tables)
                )
            )
        bucketful.land(2)
        wait_until(
            lambda: "no lake" in consumer.ready()[1],
            timeout_s=GAP_TIMEOUT_S,
            what="the consumer to miss the lake",
        )
        dump.restore()
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert consumer.terminate() == 0, consumer.tail()
