"""The election: one process holds the lock; it is free when that one ends, is killed, or is stopped for long."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import psycopg
import pytest
from structlog.testing import capture_logs

from consumer.election import (
    Election,
    assert_excluding,
    assert_exclusive,
    clock,
    connect,
    hang_up,
    lock_key,
    new_instance_name,
)
from consumer.embedded.identity import Tenant
from consumer.errors import LockLost, Misconfigured, Unavailable
from feeders.catalog import Catalog, application_name, commit_outcome, end_other_writers
from tests.helpers import wait_until_async
from tests.proxy import TcpProxy

TIMEOUT_S = 2.0

HOLDER = """
import asyncio, sys
from consumer.election import Election
from feeders.catalog import Catalog

async def main():
    host, port, database, user = sys.argv[1:5]
    catalog = Catalog(host=host, port=int(port), database=database, user=user, password=sys.stdin.readline().strip())
    election = Election(catalog, "w-holder", idle_session_timeout_s=float(sys.argv[5]))
    await election.wait_for_lock()
    print("held", flush=True)

    async def watch():
        # Asks as a writer does before a transaction: without waiting for anybody to tell it.
        while True:
            held = election.is_held
            if not held:
                print("sees it", flush=True)
                return
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    print("lost", await election.lost(), flush=True)
    await watching

asyncio.run(main())
"""


@pytest.fixture
def catalog(tenant: Tenant) -> Catalog:
    where = tenant.catalog
    return Catalog(
        host=where.host, port=where.port, database=where.database, user=where.user, password=where.password
    )


class Holder:
    """A process that holds the lock, and says when it has lost it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, *, timeout_s: float = 20) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), timeout_s)).decode().strip()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@pytest.fixture
async def holder(catalog: Catalog) -> AsyncIterator[Holder]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        catalog.host,
        str(catalog.port),
        catalog.database,
        catalog.user,
        str(TIMEOUT_S),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(f"{catalog.password}\n".encode())
    holder = Holder(process)
    try:
        assert await holder.says() == "held"
        yield holder
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def stand(catalog: Catalog, instance: str = "w-standby") -> Election:
    return Election(catalog, instance, idle_session_timeout_s=TIMEOUT_S)


async def test_the_second_waits_until_the_first_gives_back(catalog: Catalog) -> None:
    first, second = stand(catalog, "w-first"), stand(catalog, "w-second")
    await first.wait_for_lock()
    waiting = asyncio.create_task(second.wait_for_lock())
    lost = asyncio.create_task(first.lost())
    # Longer than the session may be idle: the heartbeat is what keeps it.
    await asyncio.wait({waiting, lost}, timeout=2 * TIMEOUT_S)
    assert not waiting.done()
    assert not lost.done()
    assert first.is_held
    assert not second.is_held

    await first.release()

    assert not first.is_held
    assert await lost == "it was given back"
    await asyncio.wait_for(waiting, 5)
    assert second.is_held
    await second.release()


async def test_lakes_in_one_database_are_apart_by_schema(catalog: Catalog) -> None:
    other = Catalog(
        host=catalog.host,
        port=catalog.port,
        database=catalog.database,
        user=catalog.user,
        password=catalog.password,
        schema="other",
    )
    first, second = stand(catalog), stand(other)
    await first.wait_for_lock()
    await asyncio.wait_for(second.wait_for_lock(), 5)
    assert first.is_held
    assert second.is_held
    await first.release()
    await second.release()


async def test_the_lock_of_a_killed_process_is_free_at_once(catalog: Catalog, holder: Holder) -> None:
    standby = stand(catalog)
    waiting = asyncio.create_task(standby.wait_for_lock())
    await asyncio.wait({waiting}, timeout=0.5)
    assert not waiting.done()

    holder.signal(signal.SIGKILL)

    await asyncio.wait_for(waiting, TIMEOUT_S + 3)
    await standby.release()


async def test_the_lock_of_a_stopped_process_is_free_after_the_timeout_and_it_knows(
    catalog: Catalog, holder: Holder
) -> None:
    standby = stand(catalog)
    waiting = asyncio.create_task(standby.wait_for_lock())
    await asyncio.wait({waiting}, timeout=0.5)
    assert not waiting.done()

    holder.signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    await asyncio.wait_for(waiting, TIMEOUT_S + 3)
    assert time.monotonic() - stopped_at < TIMEOUT_S + 2
    holder.signal(signal.SIGCONT)

    said = {await holder.says(timeout_s=5), await holder.says(timeout_s=5)}
    assert "sees it" in said
    assert any(line.startswith("lost the writer's lock is lost") for line in said)
    assert standby.is_held
    await standby.release()


async def test_a_process_stopped_for_less_than_the_timeout_goes_on(catalog: Catalog, holder: Holder) -> None:
    standby = stand(catalog)
    waiting = asyncio.create_task(standby.wait_for_lock())
    for _ in range(3):
        holder.signal(signal.SIGSTOP)
        await asyncio.wait({waiting}, timeout=TIMEOUT_S / 4)
        holder.signal(signal.SIGCONT)
        await asyncio.wait({waiting}, timeout=TIMEOUT_S / 2)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await standby.release()


async def test_a_blocked_event_loop_has_lost_the_lock_before_it_does_anything(catalog: Catalog) -> None:
    election = stand(catalog)
    await election.wait_for_lock()
    until = clock() + TIMEOUT_S
    while clock() < until:
        os.sched_yield()

    assert not election.is_held
    with pytest.raises(LockLost, match="stopped"):
        await election.hold()
    await election.release()


async def test_a_session_that_postgresql_ends_is_noticed(catalog: Catalog) -> None:
    election = stand(catalog)
    await election.wait_for_lock()
    with catalog.connect(application="test") as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            ("lotus-lake:lock:w-standby",),
        ).fetchall()
    assert ended == [(True,)]

    with pytest.raises(LockLost):
        await asyncio.wait_for(election.hold(), TIMEOUT_S)
    assert not election.is_held
    await asyncio.wait_for(election.wait_for_lock(), 5)
    assert election.is_held
    await election.release()


async def test_a_silent_cut_is_noticed_within_the_timeout(catalog: Catalog) -> None:
    with TcpProxy(catalog.host, catalog.port) as proxy:
        through = Catalog(
            host=proxy.host,
            port=proxy.port,
            database=catalog.database,
            user=catalog.user,
            password=catalog.password,
        )
        election, standby = stand(through), stand(catalog)
        await election.wait_for_lock()
        proxy.hold()
        held_at = time.monotonic()
        with pytest.raises(LockLost):
            await election.hold()
        assert time.monotonic() - held_at < TIMEOUT_S + 0.5
        assert not election.is_held
        # And PostgreSQL, which hears nothing of it either, frees the lock.
        await asyncio.wait_for(standby.wait_for_lock(), TIMEOUT_S + 3)
        await standby.release()
        await asyncio.wait_for(election.release(), 1)


async def test_giving_back_does_not_wait_for_a_server_that_is_silent(catalog: Catalog) -> None:
    with TcpProxy(catalog.host, catalog.port) as proxy:
        through = Catalog(
            host=proxy.host,
            port=proxy.port,
            database=catalog.database,
            user=catalog.user,
            password=catalog.password,
        )
        election = stand(through)
        await election.wait_for_lock()
        proxy.hold()
        await asyncio.wait({asyncio.create_task(asyncio.sleep(TIMEOUT_S / 2))})  # a heartbeat is under way
        await asyncio.wait_for(election.release(), 1)
        assert not election.is_held


async def test_a_catalog_that_is_away_is_waited_for_with_one_line_a_minute(catalog: Catalog) -> None:
    with TcpProxy(catalog.host, catalog.port) as proxy:
        through = Catalog(
            host=proxy.host,
            port=proxy.port,
            database=catalog.database,
            user=catalog.user,
            password=catalog.password,
        )
        proxy.refuse()
        election = stand(through)
        with capture_logs() as lines:
            waiting = asyncio.create_task(election.wait_for_lock())
            await asyncio.wait({waiting}, timeout=3)
            assert not waiting.done()
            proxy.accept()
            await asyncio.wait_for(waiting, 10)
        assert [line["event"] for line in lines] == ["catalog unavailable"]
        assert catalog.password not in str(lines)
        await election.release()


async def test_the_locks_session_outlives_what_ends_the_sessions_of_writers(catalog: Catalog) -> None:
    election, standby = stand(catalog, "w-holder"), stand(catalog, "w-standby")
    await election.wait_for_lock()
    waiting = asyncio.create_task(standby.wait_for_lock())
    await wait_until_async(lambda: sessions(catalog), what="both sessions of the election")
    with catalog.connect(application=application_name("w-zombie")) as zombie:
        assert await asyncio.to_thread(end_other_writers, catalog, instance="w-holder") == 1
        with pytest.raises(psycopg.OperationalError):
            zombie.execute("SELECT 1")
    with suppress(psycopg.errors.UndefinedTable):  # there is no lake here; what it ends, it has ended first
        await asyncio.to_thread(commit_outcome, catalog, instance="w-holder", batch_id="none")

    await asyncio.wait({waiting}, timeout=TIMEOUT_S)
    assert election.is_held
    await election.release()
    await asyncio.wait_for(waiting, 5)
    await standby.release()


async def sessions(catalog: Catalog) -> bool:
    with catalog.connect(application="test") as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'lotus-lake:lock:%'"
        ).fetchone()
    return row == (2,)


async def test_two_connections_exclude_each_other(catalog: Catalog) -> None:
    await assert_exclusive(catalog)
    election = stand(catalog)
    await election.wait_for_lock()
    await assert_exclusive(catalog)
    assert election.is_held
    await election.release()


async def test_one_session_behind_two_connections_is_refused(catalog: Catalog) -> None:
    # As a pool in transaction mode gives it.
    session = await connect(catalog, "probe")
    with pytest.raises(Misconfigured, match="PgBouncer"):
        await assert_excluding(session, session)
    await hang_up(session)


async def test_a_catalog_that_does_not_answer_is_not_called_exclusive(catalog: Catalog) -> None:
    with TcpProxy(catalog.host, catalog.port) as proxy:
        proxy.refuse()
        through = Catalog(
            host=proxy.host,
            port=proxy.port,
            database=catalog.database,
            user=catalog.user,
            password=catalog.password,
        )
        with pytest.raises(Unavailable) as caught:
            await assert_exclusive(through)
        assert caught.value.dependency == "catalog"


def test_instances_are_told_apart_and_fit_into_a_sessions_name() -> None:
    names = {new_instance_name() for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert name.startswith("w-")
        assert application_name(name).endswith(name)
        assert len(f"lotus-lake:lock:{name}") <= 63


def test_the_locks_key_is_the_same_in_every_process() -> None:
    assert lock_key("ducklake", "public") == lock_key("ducklake", "public")
    assert lock_key("ducklake", "public") == 516764516656591694
    assert len({lock_key("a", "b"), lock_key("b", "a"), lock_key("ab", ""), lock_key("", "ab")}) == 4
