"""The writer while PostgreSQL or S3 is away: no file is blamed for it, and no commit is forgotten."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

import feeders.lake
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing, LandingFile
from feeders import fault
from feeders.catalog import commit_outcome
from feeders.epoch import raise_epoch
from feeders.errors import LakeConflict, LakeFenced, LakeUnavailable, StatementFailed
from feeders.lake import Lake, LakeConfig
from feeders.transform import Transforms
from feeders.work import Load, Outcome, Result
from feeders.writer import BatchLimits, Writer
from tests.helpers import wait_until
from tests.lakes import count, definitions, lake_config, load_of, open_lake, start_term
from tests.probes import through
from tests.proxy import TcpProxy

RESULT_TIMEOUT_S = 60
POINTS = ("begun", "rows written", "committing", "transforming")


@pytest.fixture
def catalog_proxy(tenant: Tenant) -> Iterator[TcpProxy]:
    with TcpProxy(tenant.catalog.host, tenant.catalog.port) as proxy:
        yield proxy


@pytest.fixture
def s3_proxy(tenant: Tenant) -> Iterator[TcpProxy]:
    host, _, port = tenant.endpoints.s3_url.removeprefix("http://").partition(":")
    with TcpProxy(host, int(port)) as proxy:
        yield proxy


class Running:
    """A writer with the project's models, and the landing's orders to feed it."""

    def __init__(self, config: LakeConfig, folder: Path) -> None:
        self.defined = definitions()
        self.folder = folder
        lake = Lake(config)
        self.epoch = start_term(lake, self.defined)
        transforms = Transforms(self.defined.models, self.defined.streams, max_delay_s=0.2)
        transforms.load_behind(lake)
        self.writer = Writer(
            lambda: Lake(config), epoch=self.epoch, limits=BatchLimits(), follow_up=transforms, lake=lake
        )
        self.writer.start()
        self.files = (f for f in Landing(seed=3, files=None, rows=3) if f.stream == "orders")

    def load(self, file: LandingFile) -> Load:
        return load_of(file, self.defined, folder=self.folder)

    def submit(self, file: LandingFile) -> "Future[Result]":
        return self.writer.submit(self.load(file))


@pytest.fixture
def running(tenant: Tenant, tmp_path: Path, catalog_proxy: TcpProxy, s3_proxy: TcpProxy) -> Iterator[Running]:
    config = through(lake_config(tenant), catalog_proxy.port)
    store = replace(config.store, endpoint=f"http://{s3_proxy.host}:{s3_proxy.port}")
    running = Running(replace(config, store=store), tmp_path)
    try:
        yield running
    finally:
        fault.arm(None)
        assert running.writer.close(timeout_s=60)


@pytest.mark.parametrize("outage", ["sessions ended", "postgresql away", "s3 away"])
def test_an_outage_at_any_step_is_no_files_fault(
    stack: Stack, tenant: Tenant, running: Running, catalog_proxy: TcpProxy, s3_proxy: TcpProxy, outage: str
) -> None:
    """Never StatementFailed, which would make a dead letter of a whole file."""
    begin: dict[str, Callable[[], object]] = {
        "sessions ended": lambda: end_sessions(stack, tenant),
        "postgresql away": catalog_proxy.refuse,
        "s3 away": s3_proxy.refuse,
    }
    for point in POINTS:
        struck = strike_at(point, begin[outage])
        file = next(running.files)
        failure = running.submit(file).exception(RESULT_TIMEOUT_S)
        assert failure is None or isinstance(failure, LakeUnavailable | LakeConflict), (point, repr(failure))
        wait_until(lambda struck=struck: struck, timeout_s=60, what=f"the outage at {point}")
        fault.arm(None)
        catalog_proxy.accept()
        s3_proxy.accept()
        again = running.submit(file).result(RESULT_TIMEOUT_S).applied.outcome
        assert again == (Outcome.LOADED if failure else Outcome.DUPLICATE), point
    assert_fresh(tenant, rows=3 * len(POINTS))


def test_the_models_follow_a_commit_of_unknown_outcome(
    tenant: Tenant, running: Running, catalog_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost and nobody can be asked: the key comes again as a duplicate, which changes nothing."""

    def away(*args: object, **options: object) -> object:
        catalog_proxy.refuse()
        return commit_outcome(*args, **options)  # pyright: ignore[reportArgumentType] - passed through

    file = next(running.files)
    running.submit(file).result(RESULT_TIMEOUT_S)
    assert_fresh(tenant, rows=3)
    monkeypatch.setattr(feeders.lake, "commit_outcome", away)
    second = next(running.files)
    lost: list[object] = []
    strike_at("committing", lambda: lost.append(catalog_proxy.cut_after(b"Q\x00\x00\x00\x0bCOMMIT\x00", 0)))
    assert isinstance(running.submit(second).exception(RESULT_TIMEOUT_S), LakeUnavailable)
    fault.arm(None)
    monkeypatch.undo()
    catalog_proxy.accept()
    assert running.submit(second).result(RESULT_TIMEOUT_S).applied.outcome == Outcome.DUPLICATE
    assert_fresh(tenant, rows=6)


def test_of_a_halved_batch_no_key_waits_for_a_writer_that_has_ended(tenant: Tenant, running: Running) -> None:
    """A bad file halves the batch; meanwhile another process takes over: every future gets its end."""
    files = [next(running.files) for _ in range(4)]
    loads = [running.load(file) for file in files]
    loads[1].plan.path.write_bytes(b"no Parquet any more")
    batches: list[str] = []

    def take_over(name: str) -> None:
        batches.extend([name] if name == "begun" else [])
        if name == "begun" and len(batches) == 2:  # the first half
            fault.arm(None)
            lake = open_lake(tenant, instance="w-other")
            with lake.transaction("take over") as transaction:
                raise_epoch(transaction, instance="w-other")
            lake.close()

    hold = running.writer.call(lambda _: wait_until(lambda: len(futures) == 4, timeout_s=30, what="a batch"))
    futures: list[Future[Result]] = []
    fault.arm(take_over)
    futures.extend(running.writer.submit(load) for load in loads)
    hold.result(RESULT_TIMEOUT_S)
    assert all(isinstance(future.exception(RESULT_TIMEOUT_S), LakeFenced) for future in futures)
    assert isinstance(running.writer.ended.exception(RESULT_TIMEOUT_S), LakeFenced)


def strike_at(point: str, outage: Callable[[], object]) -> list[bool]:
    """Begins an outage at the next pass of a point; the list is filled when it has begun."""
    struck: list[bool] = []

    def hook(name: str) -> None:
        if name == point and not struck:
            outage()
            struck.append(True)

    fault.arm(hook)
    return struck


def end_sessions(stack: Stack, tenant: Tenant) -> None:
    """Ends the tenant's catalog sessions, as an administrator or a shutdown does."""
    with stack.connect(tenant.catalog.database) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = %s",
            (tenant.catalog.user,),
        )


def assert_fresh(tenant: Tenant, *, rows: int) -> None:
    """Waits until staging holds so many orders and their model is as fresh as staging."""
    lake = open_lake(tenant, instance="r-test")
    try:
        assert count(lake, "staging.stg_shopify__orders") == rows
        ids = "SELECT count(DISTINCT id) FROM staging.stg_shopify__orders WHERE id IS NOT NULL"
        wanted = lake.query(ids)[0][0]
        wait_until(lambda: sales(lake) == wanted, timeout_s=60, what="fct_sales to follow staging")
    finally:
        lake.close()


def sales(lake: Lake) -> int | None:
    """How many rows fct_sales has; None before its first run made it."""
    try:
        return count(lake, "main.fct_sales")
    except StatementFailed:
        return None
