"""The audit: proves that a landing is complete, or names what is not.

Objects in the bucket = loaded + dead + pending, and rows in their footers = rows in staging. It reads and changes
nothing (`consumer.audit_repair` does). It is right while the service works, since it asks in the order in which a key
goes: first the bucket, then the queue, then ledger and staging, both at one snapshot. Whoever leaves the queue between
two questions is in the ledger. What differs even so is asked for again, in the same order, a moment later.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeVar

from consumer.audit_events import FOUND_BY, created_event, replay_event
from consumer.broker import Broker
from consumer.errors import BadKeyEvent, NotFound, UnexpectedAnswer
from consumer.events import KeyEvent, Replay
from consumer.footers import FooterReader
from consumer.ingress.gone import removal_of
from consumer.ingress.sweep import pages
from consumer.objects import Bucket, ListedObject
from consumer.tasks import run_together
from feeders import audit_evidence as evidence
from feeders import auditing as books
from feeders.audit_evidence import FooterVerdict
from feeders.audit_findings import Count, Finding, counts, differing_page, kinds
from feeders.auditing import Scope, Seen
from feeders.parquet import Limits
from feeders.presence import GoneKey
from feeders.reader import LakeReader, Queryable
from feeders.streams import Stream, StreamId, StreamTable

T = TypeVar("T")

RowsFrom = Literal["footers", "ledger", "none"]
"""Whose word it is how many rows an object has: its own footer's, the ledger's; or rows are not counted."""

PAGE = 1000
PAUSES_S = (0.5, 2.0, 5.0)
"""What differs is asked for again after these: a notification takes its time too."""
HEADS_MOST = 1000
"""Of more keys that differ the bucket is listed again: a page of a listing tells of a thousand."""


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What an audit found. Its facts are still in the reader's DuckDB, for `feeders.audit_findings`.

    Attributes:
        snapshot: the newest one that was read.
        kinds: how many keys nothing explains, by kind.
    """

    scope: Scope
    rows_from: RowsFrom
    began_at: datetime
    seconds: float
    snapshot: int
    counts: tuple[Count, ...]
    kinds: dict[str, int]

    @property
    def unexplained(self) -> int:
        """How many keys nothing explains."""
        return sum(self.kinds.values())


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One audit; `run` may be called again.

    Attributes:
        looked_at: the streams of which rows are counted.
        reader: of a DuckDB of its own; the facts are kept there until the next run.
        at_once: requests to S3 that are open at the same time.
        tell: hears what is being done, and how many objects were seen in it so far.
    """

    scope: Scope
    streams: StreamTable
    looked_at: tuple[Stream, ...]
    bucket: Bucket
    reader: LakeReader
    broker: Broker
    limits: Limits
    rows_from: RowsFrom = "footers"
    at_once: int = 16
    pauses_s: tuple[float, ...] = field(default_factory=lambda: PAUSES_S)
    tell: Callable[[str, int], None] = field(default=lambda _, __: None)

    async def run(self) -> Audited:
        """Looks at everything once, and at what differs again.

        Raises:
            Unavailable, LakeError: a dependency does not answer.
        """
        began_at, started = datetime.now(UTC), time.monotonic()
        await self._read(lambda lake: books.begin_audit(lake, self.scope, self.looked_at))
        # 1. What does the bucket have?
        await self._list(again=False)
        # 2. What waits? 3. What is in the lake? In this order.
        snapshot, differing = await self._look_inside(again=False)
        # 4. What differs may have changed since: the same again, of these keys.
        for pause_s in self.pauses_s:
            if not differing:
                break
            await asyncio.sleep(pause_s)
            await self._look_outside_again()
            snapshot, differing = await self._look_inside(again=True)
        # 5. How many rows are in the objects that are loaded?
        if self.rows_from == "footers":
            await self._read_footers()
        return Audited(
            scope=self.scope,
            rows_from=self.rows_from,
            began_at=began_at,
            seconds=time.monotonic() - started,
            snapshot=snapshot,
            counts=tuple(await self._read(counts)),
            kinds=dict(await self._read(kinds)),
        )

    async def _read(self, function: Callable[[Queryable], T]) -> T:
        return await asyncio.to_thread(self.reader.read, function)

    async def _list(self, *, again: bool) -> None:
        seen = 0
        async for page in pages(self._listing(), PAGE):
            found = [self._seen(item) for item in page]
            await self._read(lambda lake, found=found: books.note_objects(lake, found, again=again))
            seen += len(page)
            self.tell("objects listed", seen)

    async def _listing(self) -> AsyncIterator[ListedObject]:
        for prefix in self.scope.begins:
            async for item in self.bucket.list(prefix):
                yield item

    def _seen(self, item: ListedObject) -> Seen:
        return Seen(
            key=item.key,
            etag=item.etag,
            size_bytes=item.size_bytes,
            modified_s=item.last_modified.timestamp(),
            stream=self._stream_of(item.key),
        )

    def _stream_of(self, key: str) -> StreamId | None:
        route = self.streams.route(key)
        return route.stream.id if route else None

    async def _look_outside_again(self) -> None:
        """Asks the bucket for the keys that differ."""
        if await self._read(books.ask_again) > HEADS_MOST:
            await self._list(again=True)
            return
        async for page in self._differing():
            found: list[Seen] = []
            left = iter(page)

            async def look(left: Iterator[tuple[Finding, GoneKey]] = left, found: list[Seen] = found) -> None:
                for finding, _ in left:
                    if (seen := await self._look_at(finding)) is not None:
                        found.append(seen)

            await run_together(look() for _ in range(self.at_once))
            if found:
                await self._read(lambda lake, found=found: books.note_objects(lake, found, again=True))

    async def _look_at(self, finding: Finding) -> Seen | None:
        """An object as the bucket has it now."""
        try:
            facts = await self.bucket.head(finding.key)
        except NotFound:
            return None
        except UnexpectedAnswer:
            # Nothing is known of this one but what the listing has told.
            return None if finding.etag is None else self._as_listed(finding)
        return Seen(
            key=finding.key,
            etag=facts.etag,
            size_bytes=facts.size_bytes,
            modified_s=facts.last_modified.timestamp(),
            stream=self._stream_of(finding.key),
        )

    def _as_listed(self, finding: Finding) -> Seen:
        return Seen(
            key=finding.key,
            etag=finding.etag or "",
            size_bytes=finding.size_bytes or 0,
            modified_s=finding.modified_s,
            stream=self._stream_of(finding.key),
        )

    async def _differing(self) -> AsyncIterator[list[tuple[Finding, GoneKey]]]:
        after = ""
        while page := await self._read(
            lambda lake, after=after: differing_page(lake, after=after, size=PAGE)
        ):
            yield page
            after = page[-1][0].key

    async def _look_inside(self, *, again: bool) -> tuple[int, int]:
        """Asks queue and lake; returns the snapshot, and how many keys still differ."""
        await self._read(evidence.begin_queue)
        queued = 0
        async for subjects in self.broker.queued(self.scope.stream):
            queued += len(subjects)
            if subjects:
                await self._read(lambda lake, subjects=subjects: evidence.note_queue(lake, subjects))
        await self._read(evidence.end_queue)
        count_rows = self.rows_from != "none"
        snapshot = await self._read(
            lambda lake: books.take_facts(
                lake, self.scope, self.looked_at, count_rows=count_rows, again=again
            )
        )
        return snapshot, await self._explain(queued)

    async def _explain(self, queued: int) -> int:
        """Explains what differs by what waits; returns how much is left."""
        if not queued:
            return await self._read(evidence.explain_by_queue)
        async for page in self._differing():
            names = [name for finding, gone in page for name in self._names(finding, gone)]
            if names:
                await self._read(lambda lake, names=names: evidence.match_queue(lake, names))
        if not await self._read(evidence.explain_by_queue):
            return 0
        # Whoever published may know less of an object, or more: then the identity is another one.
        await self._read_messages()
        return await self._read(evidence.explain_by_queue)

    def _names(self, finding: Finding, gone: GoneKey) -> list[tuple[str, str, str]]:
        """The identities under which an event about this key may wait."""
        try:
            if finding.kind == "gone":
                removal = removal_of(gone, bucket=self.scope.bucket, found_by=FOUND_BY)
                return [(finding.key, "removed", removal.identity())]
            created = created_event(finding, bucket=self.scope.bucket)
            replay = replay_event(finding.key, bucket=self.scope.bucket, replay=Replay(by="-", reason="-"))
        except BadKeyEvent:
            return []
        return [(finding.key, "created", each.identity()) for each in (created, replay)]

    async def _read_messages(self) -> None:
        """Reads the messages of which nobody knows yet what they are about."""
        after = ""
        while subjects := await self._read(
            lambda lake, after=after: evidence.unread_messages(lake, after=after, size=PAGE)
        ):
            read: list[tuple[str, str, str]] = []
            left = iter(subjects)

            async def look(left: Iterator[str] = left, read: list[tuple[str, str, str]] = read) -> None:
                for subject in left:
                    if (payload := await self.broker.queued_payload(subject)) is not None:
                        about = self._about(payload)
                        read.append((subject, *about))

            await run_together(look() for _ in range(self.at_once))
            if read:
                await self._read(lambda lake, read=read: evidence.note_messages(lake, read))
            after = subjects[-1]

    def _about(self, payload: bytes) -> tuple[str, str]:
        """The key that a message is about, empty if it is none of this bucket's, and what it says of it."""
        try:
            event = KeyEvent.from_json(payload)
        except BadKeyEvent:
            return "", ""
        return (event.key, event.event) if event.bucket == self.scope.bucket else ("", "")

    async def _read_footers(self) -> None:
        reader = FooterReader(bucket=self.bucket, limits=self.limits)
        objects = await self._read(evidence.begin_footers)
        self.tell("footers to read", objects)
        for begin in range(0, objects, PAGE):
            page = await self._read(
                lambda lake, begin=begin: evidence.footers_page(lake, begin=begin, size=PAGE)
            )
            read: list[tuple[str, int | None, FooterVerdict]] = []
            left = iter(page)

            async def look(
                left: Iterator[Seen] = left, read: list[tuple[str, int | None, FooterVerdict]] = read
            ) -> None:
                for seen in left:
                    rows, verdict = await reader.rows_of(seen)
                    read.append((seen.key, rows, verdict))

            await run_together(look() for _ in range(self.at_once))
            await self._read(lambda lake, read=read: evidence.note_footers(lake, read))
            self.tell("footers read", begin + len(page))
        await self._read(evidence.end_footers)
