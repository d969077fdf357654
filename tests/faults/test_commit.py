"""PostgreSQL lost in the middle of a COMMIT: was it applied or not? The rows are there once, whatever the answer."""

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from consumer.embedded import procs
from consumer.embedded.identity import Tenant
from consumer.embedded.process import Server
from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing, LandingFile
from feeders import fault
from feeders.errors import LakeConflict, LakeUnavailable
from feeders.lake import Lake, LakeConfig
from feeders.rebuild_by_hand import rebuild_now
from feeders.work import Load, Outcome, Result
from feeders.writer import BatchLimits, Writer
from tests.exact import assert_lake_exact
from tests.faults.campaign import campaign
from tests.faults.record import Book, Fault, Record
from tests.helpers import wait_until
from tests.lakes import lake_config, load_of, start_term
from tests.landed import Bucketful
from tests.probes import through
from tests.proxy import TcpProxy

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
METADATA = b'INSERT INTO "public".ducklake_snapshot VALUES'
REPLY_BYTES = 18 + 66 + 23
"""Of the COMMIT, and of what is asked before the session goes back to its pool."""
CUTS = 40

PARTS = 4
STOPS = 50
WITHIN_S = 0.03
RESULT_TIMEOUT_S = 60


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_cut_in_the_middle_of_a_commit(tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book) -> None:
    """The whole consumer, its batches' and its models' COMMITs alike; some cuts are in the metadata before it."""
    with (
        TcpProxy(tenant.catalog.host, tenant.catalog.port) as proxy,
        campaign(
            tenant,
            tmp_path,
            project_dir=project_dir,
            seed=41,
            settings={"LOTUS_CATALOG_PORT": str(proxy.port)},
        ) as run,
    ):
        for _ in range(CUTS):
            cut = order_cut(proxy, run.dice)

            def is_cut(cut: "Future[None]" = cut) -> bool:
                run.bucketful.land(1, rate=0)
                return cut.done()

            wait_until(is_cut, timeout_s=60, what="a cut")
            if run.dice.random() < 0.2:
                run.recover(time.monotonic())
        run.recover(time.monotonic())
    run.record(book, Fault.COMMIT_CUT, kills=CUTS, restarts=0)


def order_cut(proxy: TcpProxy, dice: random.Random) -> "Future[None]":
    """Cuts the next COMMIT before it, behind it, or after so many bytes of its answer."""
    match dice.choice(("before", "behind", "metadata", "answer", "answer", "answer")):
        case "before":
            return proxy.cut_before(COMMIT)
        case "behind":
            return proxy.cut_behind(COMMIT)
        case "metadata":
            return proxy.cut_before(METADATA)
        case _:
            return proxy.cut_after(COMMIT, dice.randrange(REPLY_BYTES))


@dataclass(kw_only=True)
class Tally:
    """What the writer said of the COMMITs near which PostgreSQL was stopped, and what was true."""

    told_committed: int = 0
    unknown_and_committed: int = 0
    unknown_and_not: int = 0
    recovery_s: list[float] = field(default_factory=list[float])


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_postgresql_stopped_within_30_ms_of_a_commit(
    stack: Stack, tenant: Tenant, tmp_path: Path, book: Book, part: int
) -> None:
    """SIGKILL of all its processes, or an immediate shutdown: the writer asks, or the key comes again."""
    dice = random.Random(part)
    bucketful = Bucketful(tenant=tenant, landing=Landing(seed=100 + part, files=None, rows=3))
    config = lake_config(tenant)
    tally = Tally()
    try:
        with (
            TcpProxy(tenant.catalog.host, tenant.catalog.port) as proxy,
            running_writer(through(config, proxy.port), bucketful) as writer,
        ):
            for _ in range(STOPS):
                loads = [load_next(bucketful, tmp_path) for _ in range(dice.randint(1, 3))]
                stop_at_commit(stack.postgres, writer, loads, begun_commit(proxy, dice), dice, tally)
    finally:
        fault.arm(None)
        stack.postgres.start()
    lake = Lake(config)
    try:
        rebuild_now(lake, bucketful.defined.models)
        assert missing_files(lake) == set()
    finally:
        lake.close()
    assert_lake_exact(bucketful)
    book.write(
        Record(
            fault=Fault.COMMIT_STOPPED,
            kills=STOPS,
            restarts=STOPS,
            files=bucketful.puts,
            recovery_s=tally.recovery_s,
            detail={
                "told committed": tally.told_committed,
                "unknown, was committed": tally.unknown_and_committed,
                "unknown, was not": tally.unknown_and_not,
            },
        )
    )


@contextmanager
def running_writer(config: LakeConfig, bucketful: Bucketful) -> Generator[Writer]:
    """A writer without models, whose term began."""
    lake = Lake(config)
    epoch = start_term(lake, bucketful.defined)
    writer = Writer(lambda: Lake(config), epoch=epoch, limits=BatchLimits(), lake=lake)
    writer.start()
    try:
        yield writer
    finally:
        assert writer.close(timeout_s=60)


def load_next(bucketful: Bucketful, folder: Path) -> Load:
    """Plans the landing's next file as if it had been read from the bucket, and remembers it."""
    file: LandingFile = next(bucketful.landing)
    etag = hashlib.md5(file.body, usedforsecurity=False).hexdigest()
    bucketful.note_put(file.key, file.body, etag)
    return load_of(file, bucketful.defined, folder=folder, etag=etag)


def begun_commit(proxy: TcpProxy, dice: random.Random) -> "Future[None]":
    """Done when DuckLake's COMMIT begins, with the metadata, or when the COMMIT to PostgreSQL is under way."""
    if dice.random() < 0.7:
        return proxy.watch_for(COMMIT)
    begun: Future[None] = Future()

    def hook(name: str) -> None:
        if name == "committing":
            fault.arm(None)
            begun.set_result(None)

    fault.arm(hook)
    return begun


def stop_at_commit(
    server: Server,
    writer: Writer,
    loads: Sequence[Load],
    begun: "Future[None]",
    dice: random.Random,
    tally: Tally,
) -> None:
    """Stops the server a moment after COMMIT begins, starts it again, and submits until all is loaded."""
    stop = stop_of(server, dice)
    # Most of them soon: a COMMIT takes a few milliseconds.
    delay_s = WITHIN_S * dice.random() ** 3
    stopped = threading.Event()

    def stop_soon() -> None:
        begun.result(RESULT_TIMEOUT_S)
        stopped.wait(delay_s)
        stop()
        stopped.set()

    thread = threading.Thread(target=stop_soon)
    thread.start()
    first = [writer.submit(load) for load in loads]
    assert stopped.wait(RESULT_TIMEOUT_S), "the writer came to no COMMIT"
    thread.join()
    server.kill()
    server.start()
    over_at = time.monotonic()
    for load, future in zip(loads, first, strict=True):
        if isinstance(result_of(future), Result):
            tally.told_committed += 1
        elif until_loaded(writer, load) is Outcome.DUPLICATE:
            tally.unknown_and_committed += 1
        else:
            tally.unknown_and_not += 1
    tally.recovery_s.append(time.monotonic() - over_at)


def stop_of(server: Server, dice: random.Random) -> Callable[[], None]:
    """A hard stop that takes no time when it is called: its processes are looked up before.

    The root only stands still until `Server.kill` has looked for those that it has started since.
    """
    if dice.random() < 0.5:
        return lambda: os.kill(server.pid, signal.SIGQUIT)  # "immediate"
    root = procs.identify(server.pid)
    assert root is not None
    tree = procs.tree(root)

    def kill() -> None:
        procs.send(root, signal.SIGSTOP)
        for process in tree:
            if process != root:
                procs.send(process, signal.SIGKILL)

    return kill


def result_of(future: "Future[Result]") -> Result | LakeUnavailable | LakeConflict:
    """What became of a load; any other error is raised."""
    try:
        return future.result(RESULT_TIMEOUT_S)
    except (LakeUnavailable, LakeConflict) as error:
        return error


def until_loaded(writer: Writer, load: Load) -> Outcome:
    """Submits a load as often as a key would come again; returns the outcome."""
    outcome: list[Outcome] = []

    def loaded() -> bool:
        match result_of(writer.submit(load)):
            case Result(applied=applied):
                outcome.append(applied.outcome)
                return True
            case _:
                return False

    wait_until(loaded, timeout_s=RESULT_TIMEOUT_S, what="PostgreSQL to be back")
    return outcome[-1]


def missing_files(lake: Lake) -> set[str]:
    """The data files that the catalog knows and the bucket does not have."""
    tables = lake.query(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'lakehouse'"
    )
    known: set[str] = set()
    for schema, table in tables:
        found = lake.query(
            "SELECT data_file FROM ducklake_list_files('lakehouse', ?, schema => ?)", (table, schema)
        )
        known |= {name for (name,) in found}
    there = lake.query("SELECT file FROM glob(? || '**')", (lake.config.data_path,))
    return known - {name for (name,) in there}
