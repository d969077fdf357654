"""Notifications that come twice, too late, in another order, again, or not at all: they are hints."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGUSR1

import pytest

from consumer.broker import Broker
from consumer.connections import broker_config
from consumer.embedded.identity import Tenant
from consumer.events import KeyEvent
from consumer.ingress.filer_tail import FOUND_BY
from consumer.landing.generate import Landing
from consumer.settings import load_settings
from consumer.tailing import POSITION
from tests.bucketful import Mischief
from tests.faults import armed, hints
from tests.faults.campaign import Campaign, campaign, hold
from tests.faults.record import Book, Fault, Record
from tests.helpers import wait_until
from tests.landed import Bucketful, assert_exact, wait_until_loaded
from tests.processes import consumer_process

HINTS = str(Path(__file__).with_name("hints.py"))
ARMED = str(Path(__file__).with_name("armed.py"))
FILES = 60
HOUR_NS = 3600 * 10**9
# Each stands still in its own way: nothing read yet, before the writer, in its transaction, and with the result.
BUSY_AT = ("got", "submitting", "rows written", "committing", "delivered", "settling")
BUSY_S = 5.0
BUSY_SETTINGS = {"LOTUS_ACK_WAIT_S": "4", "LOTUS_LOCK_TIMEOUT_S": "20"}


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_each_notification_twice_and_shuffled(
    tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book
) -> None:
    """The tail repeats and shuffles all it says; another way in says it once more, of all keys since the start."""
    command = (HINTS, "twice")
    # No deletions: of an object that is gone before its second creation is told, that is waited for a minute.
    mischief = Mischief(deletes=0)
    with campaign(
        tenant, tmp_path, project_dir=project_dir, seed=21, command=command, mischief=mischief
    ) as run:
        repeated = 0
        for _ in range(2):
            with run.bucketful.landing_meanwhile(FILES // 2, mischief=run.mischief):
                repeated += say_again(run)
            run.recover(time.monotonic())
        assert outcomes(run, "duplicate") >= FILES // 2
    run.record(book, Fault.TWICE, kills=repeated, restarts=0)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_redelivery_while_the_first_worker_is_busy(
    tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book
) -> None:
    """A process that stood still for longer than a claim lasts goes on, and gets its keys again meanwhile."""
    command = (ARMED, "SIGSTOP", ",".join(BUSY_AT), armed.LATE)
    with campaign(
        tenant, tmp_path, project_dir=project_dir, seed=22, command=command, settings=BUSY_SETTINGS
    ) as run:

        def stand_still(point: str) -> None:
            run.consumer.send(SIGUSR1)
            run.consumer.wait_for_log(f"{armed.ARMED} {point}")
            wait_until(run.consumer.is_stopped, timeout_s=60, what=f"a stop at {point}")
            hold(BUSY_S)
            run.consumer.resume()

        for point in BUSY_AT:
            run.strike(lambda point=point: stand_still(point))
        twice = outcomes(run, "claim_lost") + outcomes(run, "duplicate")
        assert twice >= len(BUSY_AT) // 2, f"only {twice} keys were given out twice"
    stops = len(BUSY_AT)
    run.record(book, Fault.BUSY, kills=stops, restarts=stops, detail={"keys given out twice": twice})


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_the_tail_restarted_from_an_hour_ago(
    tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book
) -> None:
    """It tells all of the landing again, removals of objects that are there again among them."""
    bucketful = Bucketful(
        tenant=tenant, landing=Landing(seed=23, files=None, rows=(3, 12)), project_dir=project_dir
    )
    recovery_s: list[float] = []
    restarts = 3
    for number in range(restarts + 1):
        log = tmp_path / f"{number}.log"
        started_at = time.monotonic()
        with consumer_process(tenant, log, settings=bucketful.settings()) as consumer:
            bucketful.land(FILES // 4, mischief=Mischief(deletes=0))
            wait_until_loaded(bucketful)
            if number > 0:
                recovery_s.append(time.monotonic() - started_at)
            delete_and_put_again(bucketful)
            if number > 0:
                told = f'lotus_lake_events_total{{result="new",way="{FOUND_BY}"}}'
                assert consumer.metric(told) >= len(bucketful.bodies) - FILES // 4
            assert consumer.terminate() == 0, consumer.tail()
        in_broker(tenant, rewind)
    assert_exact(bucketful)
    book.write(
        Record(
            fault=Fault.HOUR_AGO,
            kills=restarts,
            restarts=restarts,
            files=bucketful.puts,
            recovery_s=recovery_s,
        )
    )


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_thirty_percent_of_the_notifications_dropped(
    tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book
) -> None:
    """The sweep finds what nobody told of: objects that came, were overwritten, or are gone."""
    with campaign(
        tenant,
        tmp_path,
        project_dir=project_dir,
        seed=24,
        command=(HINTS, "drop", "0.3"),
        settings={"LOTUS_SWEEP_INTERVAL_S": "5"},
    ) as run:
        for _ in range(2):
            with run.bucketful.landing_meanwhile(FILES // 2, mischief=run.mischief):
                pass
            run.recover(time.monotonic())
        dropped = run.consumer.log.read_text().count(hints.DROPPED)
        assert dropped >= FILES // 5, f"only {dropped} notifications were dropped"
    run.record(book, Fault.DROPPED, kills=dropped, restarts=0)


def say_again(run: Campaign) -> int:
    """Publishes each object's creation again, and a removal of each, in any order; returns how many it were."""
    bucketful = run.bucketful
    events = [
        KeyEvent(
            event=event,
            bucket=bucketful.tenant.landing_bucket,
            key=key,
            etag=etag if event == "created" else None,
            found_by="seaweedfs",
            sent_at=datetime.now(UTC),
        )
        for key, etag in bucketful.etags.items()
        if key not in bucketful.kept
        for event in ("created", "created", "removed")
    ]
    run.dice.shuffle(events)

    async def publish(broker: Broker) -> None:
        for event in events:
            route = bucketful.route(event.key)
            await broker.publish_key(event, route.stream.id if route else None)

    in_broker(bucketful.tenant, publish)
    return len(events)


def delete_and_put_again(bucketful: Bucketful) -> None:
    """Objects that go and come back as they were: the log has a removal of what is there."""
    bodies = dict(bucketful.bodies)
    keys = bucketful.dice.sample(bucketful.deletable(), 3)
    bucketful.delete(*keys)
    wait_until_loaded(bucketful)
    for key in keys:
        bucketful.put(key, bodies[key])
    wait_until_loaded(bucketful)


async def rewind(broker: Broker) -> None:
    """Moves the filer tail's saved position back by an hour."""
    await broker.kv_put("state", POSITION, str(time.time_ns() - HOUR_NS).encode())


def in_broker(tenant: Tenant, act: Callable[[Broker], Awaitable[None]]) -> None:
    """Runs one visit to NATS."""

    async def run() -> None:
        broker = await Broker.connect(broker_config(load_settings(tenant.env()), "t-faults"))
        try:
            await act(broker)
        finally:
            await broker.close()

    asyncio.run(run())


def outcomes(run: Campaign, outcome: str) -> int:
    """How many keys ended like this, of all streams."""
    lines = run.consumer.page("/metrics")[1].splitlines()
    found = (
        line for line in lines if line.startswith("lotus_lake_verdicts_total") and f'"{outcome}"' in line
    )
    return sum(int(float(line.rpartition(" ")[2])) for line in found)
