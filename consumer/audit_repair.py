"""What an audit found is repaired by key events, as a sweep would send them: the service then looks at the bucket."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

from consumer.audit_events import FOUND_BY, created_event, replay_event
from consumer.broker import Broker
from consumer.errors import BadKeyEvent
from consumer.events import KeyEvent, Replay
from consumer.ingress.gone import removal_of
from consumer.ingress.room import Room
from consumer.ingress.sweep import STALLED_S
from consumer.subjects import Lane, Queued
from feeders.audit_findings import Finding, absences, differing_page, findings_page
from feeders.presence import Absence
from feeders.reader import LakeReader
from feeders.streams import StreamId, StreamTable

PAGE = 1000

Remedy = Literal["load", "replay", "remove"]


@dataclass(kw_only=True)
class Repaired:
    """What was published.

    Attributes:
        load: keys that were missing.
        replay: keys of which rows were missing, or whose rows the ledger does not know.
        remove: keys that were gone.
        already_queued: of all these those that somebody else had published meanwhile.
        held: streams of which so much is gone that a person has to confirm it.
        stalled: streams whose queue was full and did not move: not all of theirs was published.
        left: keys that no event repairs.
    """

    load: int = 0
    replay: int = 0
    remove: int = 0
    already_queued: int = 0
    held: dict[StreamId, Absence] = field(default_factory=dict[StreamId, Absence])
    stalled: frozenset[Queued] = frozenset()
    left: int = 0


def remedy_of(finding: Finding) -> Remedy | None:
    """Which event repairs this; None if a person has to look at it.

    Rows that are too many stay: somebody has put them there, and nothing says that they are to go.
    """
    match finding.kind:
        case "missing":
            # Loaded as new beside rows that the ledger does not know, the object's rows would be there twice.
            return "replay" if finding.rows_in_staging and finding.loaded_etag is None else "load"
        case "gone":
            return "remove"
        case "rows":
            is_loaded = finding.etag is not None and finding.etag == finding.loaded_etag
            has_too_few = (finding.rows_in_staging or 0) < finding.rows_expected
            return "replay" if is_loaded and has_too_few else None
        case "footer":
            return None
        case _:
            assert_never(finding.kind)


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Publishes what the last audit found missing, from the facts that its reader holds.

    Attributes:
        max_pending: how many keys of a stream the queue may hold for this to add to them.
        most_removed_percent: of a stream's keys; more than that waits for a person.
        by: who asked; it stands in the ledger with what is loaded again.
    """

    bucket_name: str
    streams: StreamTable
    reader: LakeReader
    broker: Broker
    max_pending: int
    most_removed_percent: int
    by: str
    stalled_s: float = STALLED_S

    async def run(self) -> Repaired:
        """Publishes, and waits for room in the queue where it is full.

        Raises:
            Unavailable: NATS does not answer; what was published stays.
        """
        repaired = Repaired()
        room = Room(self._pending, self.max_pending, self.stalled_s)
        found = await asyncio.to_thread(self.reader.read, absences)
        repaired.held.update(
            {
                stream: absence
                for stream, absence in found.items()
                if absence.needs_a_human(self.most_removed_percent)
            }
        )
        async for event, remedy in self._events(repaired):
            of = self._queue_of(event)
            if not await room.take(of):
                continue
            route = self.streams.route(event.key)
            fresh = await self.broker.publish_key(event, route.stream.id if route else None)
            self._count(repaired, remedy, fresh=fresh)
        repaired.stalled = room.stalled
        return repaired

    async def _events(self, repaired: Repaired) -> AsyncIterator[tuple[KeyEvent, Remedy]]:
        async for finding in self._findings():
            remedy = remedy_of(finding)
            if remedy == "remove":
                continue
            try:
                event = self._event(finding, remedy)
            except BadKeyEvent:
                event = None
            if event is None or remedy is None:
                repaired.left += 1
            else:
                yield event, remedy
        async for event in self._removals(repaired.held):
            yield event, "remove"

    def _event(self, finding: Finding, remedy: Remedy | None) -> KeyEvent | None:
        match remedy:
            case "load":
                return created_event(finding, bucket=self.bucket_name)
            case "replay":
                reason = f"audit: {finding.rows_in_staging} rows in staging, expected {finding.rows_expected}"
                replay = Replay(by=self.by, reason=reason)
                return replay_event(finding.key, bucket=self.bucket_name, replay=replay)
            case _:
                return None

    async def _findings(self) -> AsyncIterator[Finding]:
        last: Finding | None = None
        while page := await asyncio.to_thread(
            self.reader.read, lambda lake, last=last: findings_page(lake, after=last, size=PAGE)
        ):
            for finding in page:
                yield finding
            last = page[-1]

    async def _removals(self, held: Mapping[StreamId, Absence]) -> AsyncIterator[KeyEvent]:
        after = ""
        while page := await asyncio.to_thread(
            self.reader.read, lambda lake, after=after: differing_page(lake, after=after, size=PAGE)
        ):
            for finding, gone in page:
                if finding.kind == "gone" and finding.stream not in held:
                    yield removal_of(gone, bucket=self.bucket_name, found_by=FOUND_BY)
            after = page[-1][0].key

    def _queue_of(self, event: KeyEvent) -> Queued:
        if event.replay is not None:
            return Lane.REPLAYS
        route = self.streams.route(event.key)
        return route.stream.id if route else None

    async def _pending(self, of: Queued) -> int:
        return sum(await self.broker.pending(of))

    def _count(self, repaired: Repaired, remedy: Remedy, *, fresh: bool) -> None:
        repaired.already_queued += not fresh
        match remedy:
            case "load":
                repaired.load += 1
            case "replay":
                repaired.replay += 1
            case "remove":
                repaired.remove += 1
            case _:
                assert_never(remedy)
