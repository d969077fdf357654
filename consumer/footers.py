"""How many rows objects have, by the footers of those that nobody has read yet: two small GETs at most for each."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from consumer.errors import NotFound, UnexpectedAnswer
from consumer.objects import Bucket
from consumer.tasks import end
from feeders.parquet import Limits
from feeders.parquet_schema import FooterLimitError, parse_footer
from feeders.thrift import FooterSyntaxError

ALWAYS_READ = 100
MOST_FOOTERS = 1000
MOST_S = 1.5
"""Footers after the first hundred are read for this long: who asks waits for an answer."""
AT_ONCE = 4
"""The workers read the same bucket at the same time."""
TAIL_BYTES = 64 * 1024
TRAILER_BYTES = 8


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
        tail = await bucket.read_range(key, max(0, size - TAIL_BYTES), TAIL_BYTES) if size else b""
        length = int.from_bytes(tail[-TRAILER_BYTES:-4], "little")
        if tail[-4:] != b"PAR1" or not 0 < length <= min(size, limits.max_footer_bytes):
            return None
        if length + TRAILER_BYTES > len(tail):
            tail = await bucket.read_range(key, max(0, size - length - TRAILER_BYTES), length + TRAILER_BYTES)
        parsed = await asyncio.to_thread(
            parse_footer,
            tail[-length - TRAILER_BYTES : -TRAILER_BYTES],
            max_columns=limits.max_columns,
            max_depth=limits.max_depth,
            max_row_groups=limits.max_row_groups,
        )
    except (NotFound, UnexpectedAnswer, FooterSyntaxError, FooterLimitError):
        return None
    return parsed.rows if 0 <= parsed.rows <= limits.max_rows else None
