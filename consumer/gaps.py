"""Gaps: what tells that keys may have been lost, so that the whole bucket has to be swept.

Two of our neighbours keep state that they can lose. The queue may be a new one, without the keys that waited in the
old one. The catalog may be an older one, restored from a dump or by a failover that lost its last commits: then keys
that are off the queue are in the lake no more. A third, the filer's log, is watched by who reads it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import structlog

from consumer.broker import Broker
from consumer.errors import Unavailable
from consumer.sweeping import Reason, Sweeping
from feeders.catalog import Catalog, Snapshot, look_at_snapshots
from feeders.errors import LakeError
from feeders.lake import Lake, Watermark
from feeders.writer import Writer

log = structlog.get_logger()

MARK = "catalog"
PATIENCE_S = 10.0

Request = Callable[[Reason, str | None], None]


class QueueWatch:
    """Notices a queue of key events that was made anew, whoever made it."""

    def __init__(self, broker: Broker, prepare: Callable[[], Awaitable[bool]], request: Request) -> None:
        """Take the way to set up js_streams and subscriptions, and whom to ask for a sweep.

        `prepare` says whether it had to make the queue.
        """
        self._broker = broker
        self._prepare = prepare
        self._request = request
        self._made_at: datetime | None = None
        self.was_made = False

    async def repair(self) -> None:
        """Sets up what is missing; `was_made` says whether that ever was the queue. Raises Unavailable."""
        self.was_made = await self._prepare() or self.was_made
        await self._compare()

    async def look(self) -> None:
        """Compares the queue with the one last seen, and sets up one that is missing. Raises Unavailable."""
        if not await self._compare():
            await self.repair()

    async def _compare(self) -> bool:
        made_at = await self._broker.queue_made_at()
        if made_at is None:
            return False
        if self._made_at is not None and made_at != self._made_at:
            self._request(Reason.QUEUE_LOST, f"the queue of keys was made anew at {made_at.isoformat()}")
        self._made_at = made_at
        return True


class CatalogWatch:
    """Notices a catalog that went back to an older snapshot, while we run or since we ran.

    Within a term the watermark knows the very last commit. Between terms a mark in KV knows the last snapshot that
    was looked at: its id, and when it was made, since a catalog that went back gives its ids out again.
    """

    def __init__(self, broker: Broker, catalog: Catalog, request: Request) -> None:
        """Take where the mark is kept, what is looked at, and whom to ask for a sweep. Inside the event loop."""
        self._broker = broker
        self._catalog = catalog
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._mark: Snapshot | None = None
        self.watermark = Watermark(self._heard)

    @property
    def has_mark(self) -> bool:
        """Says whether a lake was ever looked at in this catalog."""
        return self._mark is not None

    async def begin(self) -> None:
        """Reads the mark that the last term has kept. Raises Unavailable."""
        self._mark = await load_mark(self._broker)

    def _heard(self, found: int, seen: int) -> None:
        self._loop.call_soon_threadsafe(self._went_back, found, seen)

    def _went_back(self, found: int, seen: int) -> None:
        self._mark = None
        self._request(Reason.CATALOG_WENT_BACK, f"its newest snapshot is {found}, {seen} was seen before")

    async def look(self, writer: Writer) -> None:
        """Looks at the catalog once, and keeps the mark.

        Raises:
            Unavailable: the catalog or NATS does not answer, or the catalog has no lake any more.
        """
        seen, mark = self.watermark.newest, self._mark
        try:
            newest, marked = await asyncio.to_thread(
                look_at_snapshots, self._catalog, marked=mark.id if mark else None
            )
        except LakeError as error:
            raise Unavailable("catalog", str(error)) from error
        if newest is None:
            raise Unavailable("catalog", "it has no lake; there was one before: is it being restored?")
        if newest.id < seen:
            await wake(writer)
        elif mark and (newest.id < mark.id or (marked and marked.made_at != mark.made_at)):
            self._request(
                Reason.CATALOG_WENT_BACK,
                f"its newest snapshot is {newest.id}, and {mark.id} is not the one that was seen before",
            )
        if newest != self._mark:
            await self._broker.kv_put("state", MARK, write_mark(newest))
            self._mark = newest


class Gaps:
    """All that one term knows of gaps, and the sweeps that they lead to."""

    def __init__(
        self,
        broker: Broker,
        catalog: Catalog,
        *,
        prepare: Callable[[], Awaitable[bool]],
        sweeping: Sweeping,
    ) -> None:
        """Take the connections, what sets up js_streams (and says whether the queue was made), and the schedule."""
        self.sweeping = sweeping
        self.queue = QueueWatch(broker, prepare, sweeping.request)
        self.catalog = CatalogWatch(broker, catalog, sweeping.request)
        self._is_new_lake = False

    async def begin(self) -> None:
        """Sets up the queue and reads what the last term has kept. Raises Unavailable."""
        await self.queue.repair()
        await self.catalog.begin()

    def start_sweeping(self, *, is_new_lake: bool, sweep_at_start: bool) -> None:
        """Asks for the first sweep of a term: one is asked for anyway, or the queue was lost meanwhile."""
        self._is_new_lake = is_new_lake
        if sweep_at_start:
            self.sweeping.request(Reason.START)
        elif self.queue.was_made and not is_new_lake:
            self.sweeping.request(Reason.QUEUE_LOST, "there was no queue of keys when the term began")

    def note(self, reason: Reason, detail: str | None) -> None:
        """Hears of a gap from a way in. A new lake has lost nothing: it has no position yet."""
        if not (self._is_new_lake and reason is Reason.POSITION_LOST):
            self.sweeping.request(reason, detail)

    async def look(self, writer: Writer) -> None:
        """Looks for gaps once. Raises Unavailable."""
        await self.queue.look()
        await self.catalog.look(writer)


async def load_mark(broker: Broker) -> Snapshot | None:
    """Reads the mark; None if there is none, or none that can be read. Raises Unavailable."""
    kept = await broker.kv_get("state", MARK)
    try:
        document = json.loads(kept or b"")
        return Snapshot(id=int(document["snapshot"]), made_at=str(document["made_at"]))
    except (ValueError, KeyError, TypeError):
        return None


def write_mark(snapshot: Snapshot) -> bytes:
    """The mark as it is kept."""
    return json.dumps({"snapshot": snapshot.id, "made_at": snapshot.made_at}).encode()


async def wake(writer: Writer) -> None:
    """Lets an idle writer find out that the catalog went back: its first transaction fails, the next one is new."""
    for _ in range(2):
        future = asyncio.wrap_future(writer.call(touch))
        # Waited for without cancelling: a writer that is busy will see it by itself.
        await asyncio.wait({future}, timeout=PATIENCE_S)
        if not future.done():
            future.add_done_callback(_forget)
            return
        with suppress(LakeError):
            future.result()


def _forget(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()


def touch(lake: Lake) -> None:
    """Begins and ends a transaction that changes nothing."""
    with lake.transaction("a look"):
        pass
