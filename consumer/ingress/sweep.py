"""The sweep: lists the landing prefix and publishes what neither the ledger nor the dead letters know.

Notifications are hints and the bucket is the truth: this closes whatever hole the other ways in have left, and
finds what was there before us. SeaweedFS lists in the order of a directory walk, so keys are compared as sets
page by page, and no last key is kept between sweeps. Of streams with `on_delete: remove` it also finds what is
gone, once the listing is whole (`consumer.ingress.gone`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from consumer.errors import BadKeyEvent, NotFound, Unavailable, UnexpectedAnswer
from consumer.events import KeyEvent
from consumer.ingress.gone import Gone, GonePolicy, find_gone, removals
from consumer.ingress.room import Room
from consumer.objects import Bucket, ListedObject
from feeders import fault
from feeders.failures import dead_versions
from feeders.lake import LakeError
from feeders.ledger import KeyState, latest_states
from feeders.presence import begin_listing, note_listed
from feeders.reader import LakeReader, Queryable
from feeders.streams import Stream, StreamId, StreamTable

log = structlog.get_logger()

FOUND_BY = "sweep"
PAGE = 1000
STALLED_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep saw and did.

    Attributes:
        listed: objects in the bucket.
        published: keys that were neither loaded, dead nor pending.
        removed: keys that are gone from the bucket, published as such, and were not pending.
        gone: what was found for each stream of which keys are gone, those that wait for a person included.
        stalled: streams whose queue was full and did not move: not all of theirs was published.
    """

    listed: int
    published: int
    removed: int = 0
    gone: Mapping[StreamId, Gone] = field(default_factory=dict[StreamId, Gone])
    stalled: frozenset[StreamId | None] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One sweep of the landing prefix; `run` may be called again.

    Attributes:
        publish: puts an event into the queue; False if it is there already.
        pending: how many keys of a stream the queue holds.
        max_pending: how many it may hold for a sweep to add to them.
        found: hears of each key that was published and was not pending.
        policy: what is done about keys that are gone.
        only: the one stream to look at, instead of the whole prefix.
        stalled_s: how long a full queue may stand still.
    """

    bucket_name: str
    prefix: str
    bucket: Bucket
    streams: StreamTable
    reader: LakeReader
    publish: Callable[[KeyEvent, StreamId | None], Awaitable[bool]]
    pending: Callable[[StreamId | None], Awaitable[int]]
    max_pending: int
    found: Callable[[StreamId | None], None]
    policy: GonePolicy = field(default_factory=GonePolicy)
    only: Stream | None = None
    stalled_s: float = STALLED_S

    async def run(self) -> Swept:
        """Lists, compares and publishes once.

        Raises:
            Unavailable: S3 or NATS does not answer; what was published stays, the rest waits for the next run.
            LakeError: the ledger can't be read.
        """
        room = Room(self.pending, self.max_pending, self.stalled_s)
        removing = self._removing()
        until = await asyncio.to_thread(self.reader.read, begin_listing) if removing else None
        listed = published = removed = 0
        async for page in pages(self._list(), PAGE):
            listed += len(page)
            unknown = await asyncio.to_thread(
                self.reader.read, lambda lake, page=page: self._unknown(lake, page, removing)
            )
            for item in unknown:
                published += await self._publish(item, room)
            fault.point("page swept")
        # Only now: the listing is whole.
        gone: dict[StreamId, Gone] = {}
        for number, stream in enumerate(removing):
            found = await find_gone(
                self.reader,
                stream,
                number=number,
                bucket=self.bucket_name,
                until=until,
                policy=self.policy,
            )
            if found is not None:
                gone[stream.id] = found
            if found is not None and not found.must_wait:
                async for event in removals(self.reader, bucket=self.bucket_name, found_by=FOUND_BY):
                    removed += await self._send(event, stream.id, room)
        return Swept(listed=listed, published=published, removed=removed, gone=gone, stalled=room.stalled)

    def _removing(self) -> list[Stream]:
        """The streams whose rows go with their objects."""
        return [
            stream for stream in self.streams if stream.on_delete == "remove" and self.only in (None, stream)
        ]

    async def _list(self) -> AsyncIterator[ListedObject]:
        for place in [self.prefix] if self.only is None else self.only.landing:
            async for item in self.bucket.list(f"{place}/" if place else ""):
                yield item

    def _unknown(
        self, lake: Queryable, page: Sequence[ListedObject], removing: Sequence[Stream]
    ) -> list[ListedObject]:
        if removing:
            numbers = {stream.id: number for number, stream in enumerate(removing)}
            routes = [self.streams.route(item.key) for item in page]
            of_streams = [numbers.get(route.stream.id, -1) if route else -1 for route in routes]
            note_listed(lake, list(zip(of_streams, (item.key for item in page), strict=True)))
        states = latest_states(lake, [(self.bucket_name, item.key) for item in page])
        not_loaded = [
            item for item in page if not is_loaded(states.get((self.bucket_name, item.key)), item.etag)
        ]
        # Of a bucket that is loaded these are none, and the dead letters are not asked.
        dead = dead_versions(lake, [(self.bucket_name, item.key) for item in not_loaded])
        return [item for item in not_loaded if (self.bucket_name, item.key, item.etag) not in dead]

    async def _publish(self, item: ListedObject, room: Room[StreamId | None]) -> bool:
        route = self.streams.route(item.key)
        try:
            event = KeyEvent(
                event="created",
                bucket=self.bucket_name,
                key=item.key,
                etag=item.etag or None,
                size=item.size_bytes,
                mtime=item.last_modified.timestamp() if item.last_modified else None,
                version_id=None,
                found_by=FOUND_BY,
                sent_at=datetime.now(UTC),
                replay=None,
            )
        except BadKeyEvent as error:
            log.warning("an object that no key event can name", key=item.key[:1024], error=str(error))
            return False
        fresh = await self._send(event, route.stream.id if route else None, room)
        if fresh:
            self.found(route.stream.id if route else None)
        return fresh

    async def _send(self, event: KeyEvent, stream: StreamId | None, room: Room[StreamId | None]) -> bool:
        return await room.take(stream) and await self.publish(event, stream)


def is_loaded(state: KeyState | None, etag: str) -> bool:
    """Says whether a key whose ledger says this is loaded in this version."""
    return state is not None and state.is_present and state.etag == etag


async def sweep_until_done(sweep: Sweep, *, wait_s: float, report: Callable[[Exception], None]) -> Swept:
    """Runs a sweep until one gets through: a server that does not answer, or not as it should, is waited for."""
    while True:
        try:
            return await sweep.run()
        except (Unavailable, NotFound, UnexpectedAnswer, LakeError) as error:
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
