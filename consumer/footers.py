"""How many rows objects have, by the footers of those that nobody has read yet: two small GETs at most for each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from consumer.errors import NotFound, UnexpectedAnswer
from consumer.objects import Bucket
from consumer.tasks import end
from feeders.audit_evidence import FooterVerdict
from feeders.auditing import Seen
from feeders.parquet import Limits
from feeders.parquet_schema import FooterLimitError, claimed_rows, parse_footer
from feeders.streams import StreamId
from feeders.thrift import FooterSyntaxError

ALWAYS_READ = 100
MOST_FOOTERS = 1000
MOST_S = 1.5
"""Footers after the first hundred are read for this long: who asks waits for an answer."""
AT_ONCE = 4
"""The workers read the same bucket at the same time."""
TAIL_BYTES = 64 * 1024
TRAILER_BYTES = 8
LEAST_BYTES = 4 * 1024


@dataclass(frozen=True, kw_only=True)
class FooterCount:
    """Rows of the files that could be counted, and how many could not: unreadable, or beyond what one asks for."""

    rows: int
    not_counted: int


async def count_footers(bucket: Bucket, objects: Sequence[tuple[str, int]], limits: Limits) -> FooterCount:
    """Sums the rows that the footers of these (key, size in bytes) claim.

    Of the first hundred, and of as many more of the first thousand as time allows.

    Raises:
        Unavailable: S3 does not answer.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def count(key: str, size: int) -> int | None:
        async with turns:
            return await _rows(bucket, key, size, limits)

    tasks: list[asyncio.Task[int | None]] = []
    try:
        tasks += [asyncio.create_task(count(key, size)) for key, size in objects[:ALWAYS_READ]]
        counted = list(await asyncio.gather(*tasks))
        more = [asyncio.create_task(count(key, size)) for key, size in objects[ALWAYS_READ:MOST_FOOTERS]]
        tasks += more
        if more:
            done, _ = await asyncio.wait(more, timeout=MOST_S)
            counted += [task.result() for task in done]
    finally:
        await end(tasks)
    known = [rows for rows in counted if rows is not None]
    return FooterCount(rows=sum(known), not_counted=len(objects) - len(known))


async def _rows(bucket: Bucket, key: str, size: int, limits: Limits) -> int | None:
    """Returns what a footer claims; None if there is none that can be read: loading the object tells why."""
    try:
        footer = await _footer(
            lambda start, length: bucket.read_range(key, start, length), size, guess=TAIL_BYTES, limits=limits
        )
        if footer is None:
            return None
        parsed = await asyncio.to_thread(
            parse_footer,
            footer,
            max_columns=limits.max_columns,
            max_depth=limits.max_depth,
            max_row_groups=limits.max_row_groups,
        )
    except (NotFound, UnexpectedAnswer, FooterSyntaxError, FooterLimitError):
        return None
    return parsed.rows if 0 <= parsed.rows <= limits.max_rows else None


async def _footer(
    read: Callable[[int, int], Awaitable[bytes]], size: int, *, guess: int, limits: Limits
) -> bytes | None:
    """Reads the footer of an object of this size, which may be in its last `guess` bytes; None if it has none."""
    tail = await read(max(0, size - guess), guess) if size else b""
    length = int.from_bytes(tail[-TRAILER_BYTES:-4], "little")
    if tail[-4:] != b"PAR1" or not 0 < length <= min(size, limits.max_footer_bytes):
        return None
    if length + TRAILER_BYTES > len(tail):
        tail = await read(max(0, size - length - TRAILER_BYTES), length + TRAILER_BYTES)
    return tail[-length - TRAILER_BYTES : -TRAILER_BYTES]


class _OtherVersionError(Exception):
    """The object is not the one that was asked for any more."""


@dataclass(frozen=True, kw_only=True)
class FooterReader:
    """Reads what the footers of objects claim, each of the very version that was asked for.

    Files of a stream have footers of about the same length: of each object about as much is asked for as the last
    footer of its stream took, so that one small GET does.

    Attributes:
        lengths: how many bytes are asked for at first, by stream.
    """

    bucket: Bucket
    limits: Limits
    lengths: dict[StreamId | None, int] = field(default_factory=dict["StreamId | None", int])

    async def rows_of(self, seen: Seen) -> tuple[int | None, FooterVerdict]:
        """Returns how many rows an object has, as its footer claims; without a number it is not "read".

        Raises:
            Unavailable: S3 does not answer.
        """
        try:
            return await self._rows_of(seen)
        except (NotFound, _OtherVersionError):
            return None, "changed"
        except UnexpectedAnswer:
            # It may have become shorter than what was asked for.
            return None, await self._is_still(seen)
        except FooterSyntaxError:
            return None, "unreadable"

    async def _rows_of(self, seen: Seen) -> tuple[int | None, FooterVerdict]:
        async def read(start: int, length: int) -> bytes:
            part = await self.bucket.read_part(seen.key, start, length)
            if part.etag != seen.etag:
                raise _OtherVersionError
            return part.body

        guess = min(TAIL_BYTES, self.lengths.get(seen.stream, TAIL_BYTES))
        footer = await _footer(read, seen.size_bytes, guess=guess, limits=self.limits)
        if footer is None:
            return None, "unreadable"
        self.lengths[seen.stream] = max(LEAST_BYTES, len(footer) + len(footer) // 4)
        return claimed_rows(footer), "read"

    async def _is_still(self, seen: Seen) -> FooterVerdict:
        try:
            return "unreadable" if (await self.bucket.head(seen.key)).etag == seen.etag else "changed"
        except NotFound:
            return "changed"
        except UnexpectedAnswer:
            return "unreadable"
