"""The lost answer (design D16): what is left of a commit when PostgreSQL's reply to it is cut off.

DuckLake writes its metadata with one message, and then sends COMMIT by itself; before the session goes back to
its pool, it is asked `SELECT 1` and `DISCARD ALL`.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import pytest

from consumer.embedded.identity import S3Identity, Tenant
from consumer.embedded.stack import Stack
from feeders.lake import Lake, LakeError
from tests.lakes import lake_config
from tests.probes import acting_as, opened, through
from tests.proxy import TcpProxy

METADATA = b'INSERT INTO "public".ducklake_snapshot VALUES'
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
COMMIT_REPLY_BYTES = 18
POOL_REPLY_BYTES = 66 + 23
# Eight command tags and "ready for query", for one INSERT into one table.
METADATA_REPLY_BYTES = 120

Where = Literal["before", "behind", "answer"]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Writers and a reader of one lake: the writer's catalog sessions pass through the proxy."""

    proxy: TcpProxy
    writer: Lake
    reader: Lake

    def write(self, number: int, where: Where, marker: bytes, reply_bytes: int = 0) -> bool:
        """Writes one row while the connection is cut. Returns whether the transaction counted as done."""
        done = True
        cut: Future[None] = Future()
        try:
            with self.writer.transaction(f"row {number}") as transaction:
                transaction.change("INSERT INTO staging.probe VALUES (?)", (number,))
                cut = self._order(where, marker, reply_bytes)
        except LakeError:
            done = False
        assert cut.done(), f"{where} {marker!r} {reply_bytes}: nothing was cut"
        return done

    def _order(self, where: Where, marker: bytes, reply_bytes: int) -> "Future[None]":
        match where:
            case "before":
                return self.proxy.cut_before(marker)
            case "behind":
                return self.proxy.cut_behind(marker)
            case "answer":
                return self.proxy.cut_after(marker, reply_bytes)
            case _:
                assert_never(where)

    def rows(self) -> list[int]:
        """The rows that a reader sees, each read from its file."""
        return [row[0] for row in self.reader.query("SELECT id FROM staging.probe ORDER BY id")]

    def missing_files(self) -> set[str]:
        """The data files that the catalog knows and the bucket does not have."""
        known = self.reader.query(
            "SELECT data_file FROM ducklake_list_files('lakehouse', 'probe', schema => 'staging')"
        )
        there = self.reader.query("SELECT file FROM glob(? || '**')", (self.reader.config.data_path,))
        return {row[0] for row in known} - {row[0] for row in there}


@pytest.fixture
def proxy(tenant: Tenant) -> Iterator[TcpProxy]:
    with TcpProxy(tenant.catalog.host, tenant.catalog.port) as proxy:
        yield proxy


def _cut(tenant: Tenant, proxy: TcpProxy, identity: S3Identity) -> Iterator[Cut]:
    config = acting_as(lake_config(tenant), identity)
    with opened(through(config, proxy.port)) as writer, opened(replace(config, instance="r-test")) as reader:
        with writer.transaction("table") as transaction:
            transaction.query("CREATE SCHEMA staging")
            transaction.query("CREATE TABLE staging.probe (id BIGINT)")
        yield Cut(proxy=proxy, writer=writer, reader=reader)


@pytest.fixture
def loader(tenant: Tenant, proxy: TcpProxy) -> Iterator[Cut]:
    """The identity of the service, which can't delete."""
    yield from _cut(tenant, proxy, tenant.loader)


@pytest.fixture
def deleter(stack: Stack, tenant: Tenant, proxy: TcpProxy) -> Iterator[Cut]:
    """An identity that may delete, which the service refuses."""
    yield from _cut(tenant, proxy, stack.admin)


def test_every_cut_of_the_reply_is_told_truly_and_loses_no_file(loader: Cut) -> None:
    """From the first byte of the answer to COMMIT to the last before the session is back in its pool."""
    for number in range(COMMIT_REPLY_BYTES + POOL_REPLY_BYTES):
        assert loader.write(number, "answer", COMMIT, number), f"cut after {number} bytes: it did commit"
    assert loader.rows() == list(range(COMMIT_REPLY_BYTES + POOL_REPLY_BYTES))
    assert loader.missing_files() == set()


def test_a_cut_before_the_commit_is_told_truly(loader: Cut) -> None:
    for number in range(0, METADATA_REPLY_BYTES, 20):
        assert not loader.write(number, "answer", METADATA, number), (
            f"cut after {number} bytes: no COMMIT was sent"
        )
    assert not loader.write(1000, "before", METADATA)
    assert not loader.write(1001, "before", COMMIT)
    assert loader.rows() == []
    assert loader.missing_files() == set()


def test_a_commit_that_still_runs_is_ended_before_it_is_asked_about(loader: Cut) -> None:
    """Its session lives on without its client: an answer given meanwhile could be overtaken by the COMMIT."""
    with loader.reader.config.catalog.connect(application="gate") as gate:
        gate.execute(
            "CREATE FUNCTION wait_for_gate() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'"
        )
        gate.execute(
            "CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON ducklake_snapshot DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION wait_for_gate()"
        )
        gate.execute("SELECT pg_advisory_lock(1)")
        done = loader.write(1, "behind", COMMIT)
        gate.execute("SELECT pg_advisory_unlock(1)")
        gate.execute("SELECT pg_advisory_lock(1)")  # after every COMMIT that was waiting
        assert loader.rows() == ([1] if done else [])
        assert not done
    assert loader.missing_files() == set()


def test_with_the_right_to_delete_a_lost_answer_destroys_what_was_committed(deleter: Cut) -> None:
    """Why the service's identity must not delete: DuckLake removes the files of a commit that was applied."""
    assert deleter.write(1, "answer", COMMIT, COMMIT_REPLY_BYTES)
    assert deleter.missing_files() == set()
    for number in (0, 1, COMMIT_REPLY_BYTES - 1):
        deleter.write(number, "answer", COMMIT, number)
    assert deleter.reader.query("SELECT count(*) FROM staging.probe") == [(4,)]  # the catalog's own sum
    assert len(deleter.missing_files()) == 3
    with pytest.raises(LakeError):
        deleter.rows()
