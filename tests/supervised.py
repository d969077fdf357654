"""A consumer that is started anew each time it dies, and what it left on record; for tests of files that kill."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import TypeVar

import nats
from nats.js import errors as js_errors

from consumer.broker import Broker
from consumer.connections import broker_config
from consumer.embedded.identity import Tenant
from consumer.errors import Unavailable
from consumer.inflight import Record
from consumer.subjects import subscription_name
from tests.helpers import wait_until, wait_until_async
from tests.processes import ConsumerProcess, consumer_process
from tests.service import ORDERS, settings_of

T = TypeVar("T")

KILLER = ("-m", "tests.killer")


class Supervisor:
    """Starts the tenant's consumer, of tests/killer.py, anew each time that it dies."""

    def __init__(self, tenant: Tenant, folder: Path) -> None:
        self.tenant = tenant
        self.folder = folder
        self.starts = 0
        self.deaths = 0

    @contextmanager
    def consumer(self) -> Generator[ConsumerProcess]:
        """The next process, for a `with` block; what a dead one has claimed is free before it starts."""
        if self.starts:
            free_claims(self.tenant)
        self.starts += 1
        log = self.folder / f"{self.starts}.log"
        with consumer_process(self.tenant, log, command=(*KILLER, str(self.folder))) as process:
            yield process

    def run_until_the_queue_is_empty(self) -> None:
        """Restarts it as often as it takes; then stops the last one in good order."""
        while True:
            with self.consumer() as process:
                self._wait(process)
                if process.status() is None:
                    assert process.terminate() == 0, process.tail()
                    return
                assert process.status() == -SIGKILL, process.tail()
            self.deaths += 1
            assert self.deaths < 10, "the process dies again and again"

    def _wait(self, process: ConsumerProcess) -> None:
        """Waits until it has died, or has swept and no key waits or is claimed."""
        wait_until(
            lambda: (
                process.ends_within(0.3)
                or ('"event": "swept"' in process.log.read_text() and pending(self.tenant) == 0)
            ),
            timeout_s=120,
            what="a death or an empty queue",
        )


def free_claims(tenant: Tenant) -> None:
    """Ends all claims on keys of orders, as ack_wait does, and sooner: without its subscription nothing is claimed."""

    async def run() -> None:
        client = await nats.connect(
            tenant.endpoints.nats_url, user=tenant.nats_user, password=tenant.nats_password
        )
        try:
            with suppress(js_errors.NotFoundError):
                await client.jetstream().delete_consumer(
                    f"{tenant.namespace}_keys", subscription_name(ORDERS)
                )
        finally:
            await client.close()

    asyncio.run(run())


def pending(tenant: Tenant) -> int:
    """How many keys of orders wait or are claimed."""

    async def count(broker: Broker) -> int:
        return sum(await broker.pending(ORDERS))

    return ask(tenant, count)


def record(tenant: Tenant) -> Record:
    """What is noted over a crash at this moment; empty as long as there is no record."""
    return ask(tenant, _read)


def wait_for_record(tenant: Tenant, is_wanted: Callable[[Record], object], *, what: str) -> Record:
    """Waits until the record is as a test wants it, and returns it."""

    async def wait(broker: Broker) -> Record:
        async def look() -> Record | None:
            found = await _read(broker)
            return found if is_wanted(found) else None

        found = await wait_until_async(look, timeout_s=60, what=what)
        assert found is not None
        return found

    return ask(tenant, wait)


async def _read(broker: Broker) -> Record:
    try:
        value, _ = await broker.kv_read("inflight", "keys")
    except Unavailable:
        value = None
    return Record(writer="", keys={}) if value is None else Record.from_json(value)


def ask(tenant: Tenant, question: Callable[[Broker], Awaitable[T]]) -> T:
    """Asks NATS something; makes nothing there, and costs little."""

    async def run() -> T:
        broker = await Broker.connect(broker_config(settings_of(tenant), "t-ask"))
        try:
            return await question(broker)
        finally:
            await broker.close()

    return asyncio.run(run())
