"""One lake, a bucket that things are done to, and two places where a consumer runs or not."""

import asyncio
import io
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from nats.aio.client import Client
from nats.errors import Error as NatsError
from typer.testing import CliRunner

from consumer.broker import Broker
from consumer.broker.config import keys_stream
from consumer.cli import app
from consumer.connections import broker_config
from consumer.embedded.stack import Stack
from consumer.events import KeyEvent
from consumer.objects import Bucket, open_bucket
from consumer.settings import load_settings
from consumer.tailing import POSITION
from feeders.arrow import pa, pq
from feeders.lake import Lake, LakeError, StatementFailed
from tests.asking import connect
from tests.faults.world import World
from tests.helpers import wait_until
from tests.key_queue import pending
from tests.lakes import definitions, lake_config
from tests.landed import LakeWatch
from tests.replicas import Replica, place

T = TypeVar("T")

HASTY = (str(Path(__file__).with_name("hasty.py")),)
SETTINGS = {
    "LOTUS_LOCK_TIMEOUT_S": "3",
    "LOTUS_ACK_WAIT_S": "4",
    "LOTUS_DRAIN_TIMEOUT_S": "5",
    "LOTUS_SWEEP_MAX_REMOVED_PERCENT": "100",
    "LOTUS_BREAKER_KEYS": "10000",
}
WAIT_S = 120.0


class Stage:
    """What a play is played on. Everything that it starts ends with `close`."""

    def __init__(self, stack: Stack, project_dir: Path) -> None:
        with ExitStack() as held:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
            self.tenant = stack.tenant(f"m{uuid.uuid4().hex[:12]}")
            self.defined = definitions(project_dir=project_dir)
            self.world = World(self.defined)
            self.environment = {**SETTINGS, "LOTUS_PROJECT_DIR": str(project_dir)}
            self.settings = load_settings(self.tenant.env() | self.environment)
            self.runner = held.enter_context(asyncio.Runner())
            self.seats = [
                held.enter_context(place(self.tenant, folder, name, settings=self.environment, command=HASTY))
                for name in "ab"
            ]
            self._held = held.pop_all()
        self.up: list[Replica] = []
        self.frozen: list[Replica] = []
        self.rest_s: list[float] = []
        self._forgotten = False
        self._bodies = 0

    def close(self) -> None:
        """Kills what runs, and forgets its files."""
        self._held.close()

    # --- the bucket ---------------------------------------------------------------------------------------

    def put(self, key: str, *, rows: int) -> None:
        """Puts a new version of an object."""
        self._bodies += 1
        self._put(key, whole_body(key, number=self._bodies, rows=rows))

    def put_earlier(self, key: str, which: int) -> None:
        """Puts one of the versions that the object had before."""
        bodies = list(self.world.thing(key).bodies.values())
        self._put(key, bodies[which % len(bodies)])

    def put_broken(self, key: str) -> None:
        """Puts what is no Parquet, another one each time."""
        self._bodies += 1
        body = f"no Parquet {self._bodies}".encode()
        self.world.thing(key).put_broken(self._in_landing(lambda bucket: bucket.put(key, body)))

    def delete(self, key: str) -> None:
        """Deletes an object."""
        self._in_landing(lambda bucket: bucket.delete(key))
        self.world.thing(key).delete()

    def _put(self, key: str, body: bytes) -> None:
        self.world.thing(key).put(self._in_landing(lambda bucket: bucket.put(key, body)), body)

    def _in_landing(self, act: Callable[[Bucket], Awaitable[T]]) -> T:
        async def run() -> T:
            async with open_bucket(
                endpoint=self.tenant.endpoints.s3_url,
                access_key_id=self.tenant.lander.access_key_id,
                secret_access_key=self.tenant.lander.secret_access_key,
                region="us-east-1",
                bucket=self.tenant.landing_bucket,
            ) as bucket:
                return await act(bucket)

        return self.runner.run(run())

    # --- the queue, and who asks for something ------------------------------------------------------------

    def announce(self, key: str, event: Literal["created", "removed"], which: int) -> None:
        """Publishes an event of an hour ago, about whichever version."""
        thing = self.world.thing(key)
        etags = [*thing.bodies, *sorted(thing.broken)]
        late = KeyEvent(
            event=event,
            bucket=self.tenant.landing_bucket,
            key=key,
            etag=etags[which % len(etags)],
            found_by="seaweedfs",
            sent_at=datetime.now(UTC) - timedelta(hours=1),
        )
        self._with_broker(lambda broker: broker.publish_key(late, thing.stream.id))

    def empty_the_queue(self) -> None:
        """Takes all key events away. Only a sweep finds what they were about."""
        self._forgotten = True
        name = keys_stream(broker_config(self.settings, "test")).name
        self._with_client(lambda client: client.jetstream().purge_stream(name))

    def forget_the_position(self) -> None:
        """Takes away from where the filer's log is to be read on."""
        self._with_broker(lambda broker: broker.kv_delete("state", POSITION))

    def replay(self, key: str) -> None:
        """Asks for a key to be loaded again, if there is somebody to ask."""
        request = f'{{"key": "{key}", "by": "play", "reason": "random"}}'.encode()

        async def ask(client: Client) -> None:
            with suppress(NatsError, TimeoutError):  # nobody is there right now
                await client.request(f"{self.tenant.namespace}.replay", request, timeout=10)

        self._with_client(ask)

    def sweep(self) -> None:
        """Runs `lotus-lake sweep`."""
        done = CliRunner().invoke(app, ["sweep"], env=self.tenant.env() | self.environment)
        assert done.exit_code == 0, done.output

    def _with_broker(self, act: Callable[[Broker], Awaitable[object]]) -> None:
        async def run() -> None:
            broker = await Broker.connect(broker_config(self.settings, "test"))
            try:
                await act(broker)
            finally:
                await broker.close()

        self.runner.run(run())

    def _with_client(self, act: Callable[[Client], Awaitable[object]]) -> None:
        async def run() -> None:
            client = await connect(self.tenant)
            try:
                await act(client)
            finally:
                await client.close()

        self.runner.run(run())

    # --- the consumers ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts a consumer in a place where none runs."""
        seat = next(seat for seat in self.seats if seat not in self.up)
        if seat.starts:
            seat.consumer.kill()  # it may still drain
        seat.start()
        self.up.append(seat)

    def lose(self, which: int) -> Replica:
        """Counts no more on one of those that run."""
        seat = self.up.pop(which % len(self.up))
        if seat in self.frozen:
            self.frozen.remove(seat)
            seat.mend()
        return seat

    def freeze(self, which: int, how: Literal["stop", "cut"]) -> None:
        """Stops one of two, or cuts its network; if it wrote, waits until the other one does."""
        seat, other = self.up[which], self.up[1 - which]
        wrote = seat.role() == "writer"
        self.frozen.append(seat)
        if how == "stop":
            seat.consumer.pause()
        else:
            seat.cut()
        if wrote:
            wait_until(lambda: other.role() == "writer", timeout_s=WAIT_S, what="a takeover")

    def thaw(self) -> None:
        """Lets those go on that were stopped or cut off."""
        for seat in self.frozen:
            seat.consumer.resume()
            seat.mend()
        self.frozen.clear()

    # --- the look -----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Lets everything come to rest, and holds the lake against the model."""
        began_at = time.monotonic()
        try:
            self._come_to_rest()
            for seat in self.up:
                assert seat.consumer.status() is None, f"{seat.name} ended by itself"
        except AssertionError as error:
            for seat in self.seats:
                if seat.starts:
                    error.add_note(f"{seat.name}: {seat.consumer.tail()}")
            raise
        self.rest_s.append(time.monotonic() - began_at)

    def _come_to_rest(self) -> None:
        self.thaw()
        if not self.up:
            self.start()
        wait_until(
            lambda: any(seat.role() == "writer" for seat in self.up), timeout_s=WAIT_S, what="a writer"
        )
        if self._forgotten:
            # What was in work when the queue was emptied may still come into the lake.
            wait_until(lambda: self._pending() == 0, timeout_s=WAIT_S, what="an empty queue")
            self.sweep()
            self._forgotten = False
        lacks = "never looked"
        with LakeWatch(lake_config(self.tenant, instance="r-look")) as watch:

            def rested() -> Lake | None:
                nonlocal lacks
                # In this order: what is read from the lake afterwards is the end of all that was in work.
                if self._pending() or not (lake := watch.changed()):
                    return None
                try:
                    lacks = self.world.lacks(lake)
                except StatementFailed:
                    lacks = "the tables"
                except LakeError as error:
                    lacks = str(error)
                    watch.close()
                return None if lacks else lake

            try:
                lake = wait_until(rested, timeout_s=WAIT_S, what="all to come to rest")
            except AssertionError as error:
                error.add_note(f"it lacks {lacks}; {self._pending()} keys are in the queue")
                raise
            assert lake is not None
            self.world.assert_shown(lake)

    def _pending(self) -> int:
        return pending(self.tenant, self.defined.streams)


def whole_body(key: str, *, number: int, rows: int) -> bytes:
    """A Parquet file unlike any other. Its rows' ids come again in other files, as new versions of the same things."""
    ids = list(range(1, rows + 1))
    extracted_at = datetime(2026, 7, 4, tzinfo=UTC) + timedelta(seconds=number)
    table = pa.table(
        {
            "_airbyte_raw_id": pa.array([f"{number} {each}" for each in ids], pa.string()),
            "_airbyte_extracted_at": pa.array([extracted_at] * rows, pa.timestamp("us", tz="UTC")),
            "id": pa.array(ids, pa.int64()) if "shopify" in key else pa.array(map(str, ids), pa.string()),
        }
    )
    body = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"number": str(number)}), body)
    return body.getvalue()
