"""What is gone from the bucket: keys in the ledger that a whole listing lacks, of streams with `on_delete: remove`.

Each becomes a `removed` event, a hint like any other: the walk looks at the bucket before it takes rows away. A
listing that lacks too much at once is rather a wrong bucket, a wrong policy or somebody's mistake: nothing of it is
published until a person lets it through (`lotus-lake sweep --confirm`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from consumer.events import KeyEvent
from feeders.presence import Absence, GoneKey, compare, gone_page
from feeders.reader import LakeReader
from feeders.streams import Stream, StreamId

PAGE = 1000
EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Gone:
    """A stream's keys that are gone: how many of how many, the first few, and whether they wait for a person."""

    absence: Absence
    examples: tuple[str, ...]
    must_wait: bool


@dataclass(frozen=True, kw_only=True)
class GonePolicy:
    """How much may be gone at once.

    Attributes:
        most_percent: of a stream's keys in staging; more than that waits for a person.
        confirmed: streams of which a person has said that it is right.
        tell: hears of each stream that was compared, before anything of it is published; None: nothing is gone.
    """

    most_percent: int = 10
    confirmed: frozenset[StreamId] = frozenset()
    tell: Callable[[StreamId, Gone | None], None] = lambda _, __: None


async def find_gone(
    reader: LakeReader,
    stream: Stream,
    *,
    number: int,
    bucket: str,
    until: int | None,
    policy: GonePolicy,
) -> Gone | None:
    """Compares a stream with the whole listing; see `feeders.presence`. Raises LakeError."""

    def look() -> Gone | None:
        absence = reader.read(lambda lake: compare(lake, stream, number=number, bucket=bucket, until=until))
        if not absence.gone:
            return None
        first = reader.read(lambda lake: gone_page(lake, after="", size=EXAMPLES))
        must_wait = absence.needs_a_human(policy.most_percent) and stream.id not in policy.confirmed
        return Gone(absence=absence, examples=tuple(each.key for each in first), must_wait=must_wait)

    found = await asyncio.to_thread(look)
    policy.tell(stream.id, found)
    return found


async def removals(reader: LakeReader, *, bucket: str, found_by: str) -> AsyncIterator[KeyEvent]:
    """Gives a `removed` event for each key that the last `find_gone` found. Raises LakeError."""
    after = ""
    while page := await asyncio.to_thread(
        reader.read, lambda lake, after=after: gone_page(lake, after=after, size=PAGE)
    ):
        for each in page:
            yield removal_of(each, bucket=bucket, found_by=found_by)
        after = page[-1].key


def removal_of(gone: GoneKey, *, bucket: str, found_by: str) -> KeyEvent:
    """The event that the object's own removal would have sent, so that the queue takes both for one."""
    return KeyEvent(
        event="removed",
        bucket=bucket,
        key=gone.key,
        etag=gone.etag or None,
        size=gone.size_bytes,
        mtime=gone.modified_s,
        version_id=gone.version_id,
        found_by=found_by,
        sent_at=datetime.now(UTC),
    )
