"""Puts a landing into a bucket: at a rate, several at once, the puts of one key one after the other."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumer.landing.generate import LandingFile

DEFAULT_CONCURRENCY = 8

Put = Callable[[str, bytes], Awaitable[object]]
"""Puts a body under a key, and returns when the bucket has it."""


@dataclass(frozen=True, kw_only=True)
class Landed:
    """One file that is in the bucket; `finished_at` is when the bucket had answered."""

    key: str
    source: str
    stream: str
    rows: int
    size_bytes: int
    overwrites: bool
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, kw_only=True)
class LandingSummary:
    """What one run put: `objects` counts keys, `files` counts puts."""

    files: int
    objects: int
    rows: int
    size_bytes: int
    duration_s: float


async def run_landing(
    landing: Iterator[LandingFile],
    put: Put,
    *,
    rate: float = 0,
    seconds: float | None = None,
    on_progress: Callable[[Landed], None] = lambda landed: None,
    concurrency: int = DEFAULT_CONCURRENCY,
) -> LandingSummary:
    """Puts files until the landing ends or the time is up.

    Files are made on another thread, one at a time and only when there is room for them: what the landing has
    made is what was put, unless this raises. Puts start in the landing's order.

    Args:
        landing: the files.
        put: puts one.
        rate: files per second, evenly spaced; 0 is as fast as possible.
        seconds: take no further file after this time; None is no limit.
        on_progress: hears of each file that is in the bucket, in the order they arrive.
        concurrency: how many puts at once.

    Raises:
        Exception: what a put or `on_progress` raised first; the other puts are cancelled.
    """
    started = time.monotonic()
    room = asyncio.Semaphore(concurrency)
    in_flight: dict[str, asyncio.Task[None]] = {}
    tally = _Tally()

    async def put_one(file: LandingFile, former: asyncio.Task[None] | None) -> None:
        try:
            if former is not None:
                await asyncio.wait([former])
            landed = await _put(file, put)
        finally:
            room.release()
            if in_flight.get(file.key) is asyncio.current_task():
                del in_flight[file.key]
        tally.add(landed)
        on_progress(landed)

    try:
        async with asyncio.TaskGroup() as puts:
            number = 0
            while True:
                await room.acquire()
                start_at = max(time.monotonic(), started + number / rate if rate > 0 else 0)
                if seconds is not None and start_at - started >= seconds:
                    break
                await asyncio.sleep(max(0.0, start_at - time.monotonic()))
                file = await asyncio.to_thread(next, landing, None)
                if file is None:
                    break
                number += 1
                in_flight[file.key] = puts.create_task(put_one(file, in_flight.get(file.key)))
    except ExceptionGroup as failed:
        # Puts that were under way fail together, mostly for one reason: a caller needs only the first.
        raise failed.exceptions[0] from failed
    return tally.summary(time.monotonic() - started)


@dataclass(kw_only=True)
class _Tally:
    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    keys: set[str] = field(default_factory=set[str])

    def add(self, landed: Landed) -> None:
        self.files += 1
        self.rows += landed.rows
        self.size_bytes += landed.size_bytes
        self.keys.add(landed.key)

    def summary(self, duration_s: float) -> LandingSummary:
        return LandingSummary(
            files=self.files,
            objects=len(self.keys),
            rows=self.rows,
            size_bytes=self.size_bytes,
            duration_s=duration_s,
        )


async def _put(file: LandingFile, put: Put) -> Landed:
    started_at = datetime.now(UTC)
    await put(file.key, file.body)
    return Landed(
        key=file.key,
        source=file.source,
        stream=file.stream,
        rows=file.rows,
        size_bytes=len(file.body),
        overwrites=file.overwrites,
        started_at=started_at,
        finished_at=datetime.now(UTC),
    )
