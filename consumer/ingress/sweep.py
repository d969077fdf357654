"""The sweep: lists the landing prefix and publishes what neither the ledger nor the dead letters know.

Notifications are hints and the bucket is the truth: this closes whatever hole the other ways in have left, and
finds what was there before us. SeaweedFS lists in the order of a directory walk, so keys are compared as sets
page by page, and no last key is kept between sweeps.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from consumer.errors import BadKeyEvent, Unavailable
from consumer.events import KeyEvent
from consumer.objects import Bucket, ListedObject
from feeders import fault
from feeders.failures import dead_versions
from feeders.lake import LakeError
from feeders.ledger import latest_states
from feeders.reader import LakeReader, Queryable
from feeders.streams import StreamId, StreamTable

log = structlog.get_logger()

PAGE = 1000
WAIT_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep saw: objects listed, and keys published that were neither loaded, dead nor pending."""

    listed: int
    published: int


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One sweep of the landing prefix; `run` may be called again."""

    bucket_name: str
    prefix: str
    bucket: Bucket
    streams: StreamTable
    reader: LakeReader
    publish: Callable[[KeyEvent, StreamId | None], Awaitable[bool]]
    pending: Callable[[StreamId | None], Awaitable[int]]
    max_pending: int
    found: Callable[[StreamId | None], None]

    async def run(self) -> Swept:
        """Lists, compares and publishes once.

        Raises:
            Unavailable: S3 or NATS does not answer; what was published stays, the rest waits for the next run.
            LakeError: the ledger can't be read.
        """
        listed = published = 0
        room: dict[StreamId | None, int] = {}
        async for page in pages(self.bucket.list(f"{self.prefix}/" if self.prefix else ""), PAGE):
            listed += len(page)
            unknown = await asyncio.to_thread(
                self.reader.read, lambda lake, page=page: self._unknown(lake, page)
            )
            for item in unknown:
                published += await self._publish(item, room)
            fault.point("page swept")
        return Swept(listed=listed, published=published)

    def _unknown(self, lake: Queryable, page: Sequence[ListedObject]) -> list[ListedObject]:
        keys = [(self.bucket_name, item.key) for item in page]
        states = latest_states(lake, keys)
        dead = dead_versions(lake, keys)
        unknown: list[ListedObject] = []
        for item in page:
            state = states.get((self.bucket_name, item.key))
            loaded = state is not None and state.is_present and state.etag == item.etag
            buried = (self.bucket_name, item.key, item.etag) in dead
            if not loaded and not buried:
                unknown.append(item)
        return unknown

    async def _publish(self, item: ListedObject, room: dict[StreamId | None, int]) -> bool:
        route = self.streams.route(item.key)
        stream = route.stream.id if route else None
        while room.get(stream, 0) <= 0:
            room[stream] = self.max_pending - await self.pending(stream)
            if room[stream] <= 0:
                await asyncio.sleep(WAIT_S)
        room[stream] -= 1
        try:
            event = KeyEvent(
                event="created",
                bucket=self.bucket_name,
                key=item.key,
                etag=item.etag or None,
                size=item.size_bytes,
                mtime=item.last_modified.timestamp() if item.last_modified else None,
                version_id=None,
                found_by="sweep",
                sent_at=datetime.now(UTC),
                replay=None,
            )
        except BadKeyEvent as error:
            log.warning("an object that no key event can name", key=item.key[:1024], error=str(error))
            return False
        fresh = await self.publish(event, stream)
        if fresh:
            self.found(stream)
        return fresh


async def sweep_until_done(sweep: Sweep, *, wait_s: float, report: Callable[[Exception], None]) -> Swept:
    """Runs a sweep until one is whole: an unavailable server is waited for."""
    while True:
        try:
            return await sweep.run()
        except (Unavailable, LakeError) as error:
            report(error)
            await asyncio.sleep(wait_s)


async def pages(items: AsyncIterator[ListedObject], size: int) -> AsyncIterator[list[ListedObject]]:
    """Groups a listing into pages; directory markers are no objects."""
    page: list[ListedObject] = []
    async for item in items:
        if item.key.endswith("/"):
            continue
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page
