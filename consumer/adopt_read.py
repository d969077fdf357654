"""Reads the files of a stream for an adoption: one GET each, checked and planned as for a load."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from consumer.errors import NeedsMending, NotFound, Unavailable
from consumer.objects import Answer, Bucket, ListedObject
from consumer.spool import Slot, Spool
from consumer.tasks import run_together
from feeders.adoption import Disagreement, ReadFile
from feeders.adoption_check import note_ids
from feeders.errors import StatementFailed
from feeders.lake import Lake
from feeders.ledger import ObjectVersion
from feeders.parquet import BadFile, Limits, inspect
from feeders.parquet_limits import hold
from feeders.schema import LoadPlan, plan_load
from feeders.streams import Column, Partition, Stream

T = TypeVar("T")
TRIES = 8
"""Half a minute: no queue brings a file again."""


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Calls again while a dependency does not answer, some times. Raises Unavailable, and at once NeedsMending."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, Unavailable) and not isinstance(error, NeedsMending)
        ),
        wait=wait_exponential_jitter(multiplier=0.2, max=10),
        stop=stop_after_attempt(TRIES),
        reraise=True,
    ):
        with attempt:
            return await call()
    raise AssertionError("the last try returns or raises")


class Desk:
    """A lake and its temporary tables, for one thread at a time; others wait.

    Attributes:
        is_stopped: whoever asked was cancelled. A thread can't be: it has to look, and to begin nothing more.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._lock = threading.Lock()
        self.is_stopped = False

    async def ask(self, function: Callable[[Lake], T]) -> T:
        """Runs a function of the lake in a thread; the statement at which it is ends if this is cancelled.

        Raises:
            LakeError: so says the function.
        """
        try:
            return await asyncio.to_thread(self._run, function)
        except asyncio.CancelledError:
            self.is_stopped = True
            self._lake.interrupt()
            raise

    def _run(self, function: Callable[[Lake], T]) -> T:
        with self._lock:
            return function(self._lake)

    async def close(self) -> None:
        """Closes the lake, once nobody uses it."""
        await self.ask(Lake.close)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An object of a stream, and the partition that its key names."""

    item: ListedObject
    partition: Partition


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Notes the raw ids of a stream's files in the lake's DuckDB.

    Attributes:
        columns: of the old table: what they don't hold of a file is told.
        at_once: files read at the same time.
        tell: hears how many files were read.
        unreadable: the files of which nobody can tell which rows they have.
    """

    stream: Stream
    columns: tuple[Column, ...]
    bucket: Bucket
    spool: Spool
    limits: Limits
    at_once: int
    desk: Desk
    tell: Callable[[int], None]
    unreadable: list[Disagreement] = field(default_factory=list[Disagreement])

    async def run(self, files: Sequence[Listed], number: int) -> list[ReadFile]:
        """Reads files, whose numbers begin with this one; one that is gone meanwhile is left out.

        Raises:
            Unavailable, LakeError: a dependency does not answer.
        """
        read: list[ReadFile] = []
        left = iter(enumerate(files, number))

        async def work(left: Iterable[tuple[int, Listed]] = left) -> None:
            for each, listed in left:
                if (file := await self._read(each, listed)) is not None:
                    read.append(file)
                self.tell(len(read))

        await run_together(work() for _ in range(self.at_once))
        return sorted(read, key=lambda file: file.number)

    async def _read(self, number: int, listed: Listed) -> ReadFile | None:
        try:
            # S3 can be silent only before anything is noted.
            return await patiently(lambda: self._note(number, listed))
        except NotFound:
            return None
        except BadFile as error:
            reason = error.message
        except StatementFailed as error:
            if error.invalidates_instance or error.kind == "OutOfMemoryException":
                raise
            reason = str(error)
        self.unreadable.append(
            Disagreement(
                kind="unreadable",
                stream=self.stream.id,
                table=self.stream.qualified_table,
                key=listed.item.key,
                detail=reason,
            )
        )
        return None

    async def _note(self, number: int, listed: Listed) -> ReadFile:
        async with AsyncExitStack() as held:
            async with self.bucket.open(listed.item.key) as answer:
                hold("bytes", answer.size_bytes, self.limits, "max_bytes")
                slot = await held.enter_async_context(self.spool.reserve(answer.size_bytes))
                await answer.save(slot.path)
            plan = await asyncio.to_thread(self._plan, slot)
            first = plan
            try:
                await self.desk.ask(lambda lake: note_ids(lake, number, first))
            except StatementFailed as error:
                if error.invalidates_instance:
                    raise
                # What DuckDB can't read by itself is read value by value, as for a load.
                careful = await asyncio.to_thread(self._plan, slot, careful=True)
                await self.desk.ask(lambda lake: note_ids(lake, number, careful))
                plan = careful
            return ReadFile(
                number=number,
                version=self._version(listed, answer),
                partition=listed.partition,
                rows=plan.rows,
                rescued_rows=plan.rescued_rows,
                rescued_paths=plan.rescued_paths,
            )

    def _plan(self, slot: Slot, *, careful: bool = False) -> LoadPlan:
        footer = inspect(slot.path, self.limits)
        return plan_load(slot.path, footer, self.columns, work_dir=slot.work_dir, careful=careful)

    def _version(self, listed: Listed, answer: Answer) -> ObjectVersion:
        return ObjectVersion(
            bucket=self.bucket.name,
            key=listed.item.key,
            etag=answer.etag,
            version_id=answer.version_id,
            size_bytes=answer.size_bytes,
            last_modified=answer.last_modified,
        )
