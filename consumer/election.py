"""The election of the one writer: a session-level advisory lock in the catalog's PostgreSQL.

PostgreSQL ends a session that is idle for `idle_session_timeout`, and with it the lock of a process that was
stopped or cut off. The holder knows by its own clock, without asking, when that may have happened.
"""

import asyncio
import hashlib
import os
import random
import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Literal, LiteralString

import psycopg
import structlog
from psycopg.conninfo import make_conninfo

from consumer.errors import LockLost, Misconfigured, Unavailable
from feeders.catalog import APPLICATION_PREFIX, KEEPALIVES, Catalog, classify_login
from feeders.errors import LakeMisconfigured

log = structlog.get_logger()

POLL_S = 0.25
"""How often a standby asks for the lock: what it may come too late by is part of every takeover. It does not wait for
the lock in PostgreSQL: one that was stopped or cut off in that line would get it, and keep it for a whole timeout."""
BACKOFF_S = 1.0
BACKOFF_MOST_S = 10.0
LOG_EVERY_S = 60.0
CONNECT_TIMEOUT_S = 5

_RANDOM = random.SystemRandom()

Connection = psycopg.AsyncConnection[tuple[object, ...]]


Part = Literal["w", "r", "s", "j", "d", "c"]
"""Whose session it is: the writer's, its reader's, the status page's, the janitor's, that of a command that changes or
reads the lake, or one that only asks."""


def new_instance_name(part: Part = "w") -> str:
    """Names this process, differently each time, short enough for PostgreSQL's application_name."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:20]
    return f"{part}-{host}-{os.getpid()}-{secrets.token_hex(4)}"


def name_of_part(instance: str, part: Part) -> str:
    """Names another part of the same process."""
    return f"{part}-{instance.partition('-')[2]}"


def lock_key(*parts: str) -> int:
    """The 64-bit key of an advisory lock, the same in every process and version."""
    digest = hashlib.sha256("\0".join(("lotus-lake", *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class Election:
    """This process's part in the election: wait for the lock, hold it, lose it or give it back. One event loop.

    The session is not named like the writer's, so that neither a new writer nor our own question for the
    outcome of a COMMIT ends it.
    """

    def __init__(self, catalog: Catalog, instance: str, *, idle_session_timeout_s: float = 6.0) -> None:
        self._catalog = catalog
        self._instance = instance
        self._timeout_s = idle_session_timeout_s
        self._key = lock_key(catalog.database, catalog.schema)
        self._connection: Connection | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._alive_at: float | None = None

    @property
    def is_held(self) -> bool:
        """Says whether nobody else can have the lock: our session can't have been idle too long yet. Any thread."""
        alive_at = self._alive_at
        return alive_at is not None and clock() - alive_at < self._timeout_s

    async def wait_for_lock(self, note: Callable[[str | None], None] = lambda _: None) -> None:
        """Waits, as long as it takes, until this process has the lock; then the heartbeat runs by itself.

        Args:
            note: told after each try why the catalog does not answer, or None if it does.

        Raises:
            LakeMisconfigured: PostgreSQL refuses our login.
        """
        await self.release()
        failures, last_logged = 0, float("-inf")
        while True:
            wait_s = POLL_S
            try:
                if await self._try_lock():
                    break
                failures = 0
                event, facts = "standby", dict[str, str]()
                note(None)
            except Unavailable as error:
                await self._close()
                note(str(error))
                failures += 1
                wait_s = min(BACKOFF_MOST_S, BACKOFF_S * 2.0 ** min(failures - 1, 10))
                event, facts = "catalog unavailable", {"error": str(error)}
            if clock() - last_logged >= LOG_EVERY_S:
                log.info(event, instance=self._instance, **facts)
                last_logged = clock()
            await asyncio.sleep(wait_s * _RANDOM.uniform(0.7, 1.3))
        self._heartbeat = asyncio.create_task(self._beat(), name="election heartbeat")

    async def take(self) -> bool:
        """Takes the lock if nobody has it, and says whether; then the heartbeat runs by itself.

        Raises:
            Unavailable: the catalog does not answer.
            LakeMisconfigured: PostgreSQL refuses our login.
        """
        await self.release()
        if not await self._try_lock():
            await self._close()
            return False
        self._heartbeat = asyncio.create_task(self._beat(), name="election heartbeat")
        return True

    async def hold(self) -> None:
        """Waits while this process has the lock; returns when it was given back.

        Raises:
            LockLost: it hasn't, or can't be sure. `is_held` is False from then on.
        """
        heartbeat = self._heartbeat
        if heartbeat is None:
            raise LockLost("this process does not hold the writer's lock")
        await asyncio.wait({heartbeat})
        if not heartbeat.cancelled():
            heartbeat.result()

    async def lost(self) -> str:
        """Waits until the lock is lost, and says how."""
        try:
            await self.hold()
        except LockLost as error:
            return str(error)
        return "it was given back"

    async def release(self) -> None:
        """Gives the lock back, if it is held, by ending its session."""
        self._alive_at = None
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            with suppress(asyncio.CancelledError, LockLost):
                await self._heartbeat
            self._heartbeat = None
        await self._close()

    async def _try_lock(self) -> bool:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._catalog, self._instance)
            milliseconds = str(int(self._timeout_s * 1000))
            await self._ask("SELECT set_config('idle_session_timeout', %s, false)", milliseconds)
        # From this moment, not that of the answer: the session's idle time begins later than it.
        asked_at = clock()
        if await self._ask("SELECT pg_try_advisory_lock(%s)", self._key) is not True:
            return False
        self._alive_at = asked_at
        if not self.is_held:
            raise Unavailable("catalog", "the answer that gave us the lock came too late")
        return True

    async def _beat(self) -> None:
        """Keeps the session from being idle. Ends with LockLost only."""
        while True:
            await asyncio.sleep(self._timeout_s / 4)
            # A process that was stopped comes back here: what its session was meanwhile it must not assume.
            if not self.is_held:
                await self._lose("no heartbeat in time: this process or its event loop was stopped")
            asked_at = clock()
            try:
                await self._ask("SELECT 1")
            except Unavailable as error:
                await self._lose(str(error))
            if not self.is_held:
                await self._lose("the answer to a heartbeat came too late")
            self._alive_at = asked_at

    async def _lose(self, why: str) -> None:
        self._alive_at = None
        await self._close()
        raise LockLost(f"the writer's lock is lost: {why}")

    async def _ask(self, query: LiteralString, *parameters: object) -> object:
        """Runs a query, within the time in which its answer is of use.

        Raises:
            Unavailable: no answer in time, or an error; the connection is of no use any more.
        """
        if self._connection is None:
            raise Unavailable("catalog", "the session was closed")
        alive_at = clock() if self._alive_at is None else self._alive_at
        return await ask(self._connection, query, *parameters, timeout_s=alive_at + self._timeout_s - clock())

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await hang_up(connection)


def clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


async def connect(catalog: Catalog, instance: str) -> Connection:
    """Opens a session for the lock.

    Raises:
        Unavailable: nobody answered.
        LakeMisconfigured: the login was refused.
    """
    try:
        conninfo = make_conninfo(
            "",
            host=catalog.host,
            port=catalog.port,
            dbname=catalog.database,
            user=catalog.user,
            password=catalog.password,
            application_name=f"{APPLICATION_PREFIX}lock:{instance}"[:63],
            connect_timeout=CONNECT_TIMEOUT_S,
            **KEEPALIVES,
        )
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        classified = classify_login(error)
        if isinstance(classified, LakeMisconfigured):
            raise classified from error
        raise Unavailable("catalog", str(error)) from error
    except psycopg.Error as error:
        raise Unavailable("catalog", str(error)) from error


async def ask(connection: Connection, query: LiteralString, *parameters: object, timeout_s: float) -> object:
    """Runs a query and returns the first value of its first row.

    Not by `asyncio.timeout`: psycopg answers a cancellation by asking the server to cancel, and waits for that.

    Raises:
        Unavailable: no answer in time, or an error; the connection is hung up.
    """
    task = asyncio.create_task(_first_value(connection, query, parameters))
    try:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, timeout_s))
        if not done:
            raise Unavailable("catalog", "no answer in time")
        return task.result()
    except psycopg.Error as error:
        raise Unavailable("catalog", str(error)) from error
    finally:
        if not task.done():
            cut(connection)
            with suppress(psycopg.Error):
                await task


async def _first_value(
    connection: Connection, query: LiteralString, parameters: tuple[object, ...]
) -> object:
    cursor = await connection.execute(query, parameters)
    row = await cursor.fetchone()
    return row[0] if row else None


def cut(connection: Connection) -> None:
    """Ends a connection at the socket, so that whoever waits for its server stops waiting at once."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


async def hang_up(connection: Connection) -> None:
    """Closes a connection, whatever its state."""
    with suppress(psycopg.Error, OSError):
        await connection.close()


async def assert_exclusive(catalog: Catalog) -> None:
    """Proves that two connections exclude each other, with a lock that nobody else uses.

    Raises:
        Misconfigured: they don't: a connection pool in transaction mode lies between.
        Unavailable: the catalog does not answer.
    """
    async with AsyncExitStack() as held:
        sessions: list[Connection] = []
        for _ in range(2):
            session = await connect(catalog, "probe")
            held.push_async_callback(hang_up, session)
            sessions.append(session)
        await assert_excluding(*sessions)


async def assert_excluding(first: Connection, second: Connection) -> None:
    """Proves it for two connections; see `assert_exclusive`."""
    query: LiteralString = "SELECT pg_try_advisory_lock(%s)"
    key = lock_key("probe", secrets.token_hex(16))
    await ask(first, query, key, timeout_s=CONNECT_TIMEOUT_S)
    if await ask(second, query, key, timeout_s=CONNECT_TIMEOUT_S):
        raise Misconfigured(
            "two connections to the catalog hold the same advisory lock: something between us and PostgreSQL"
            " shares sessions, as PgBouncer does in transaction mode",
            hint="connect to PostgreSQL itself, or to a pool in session mode",
        )
