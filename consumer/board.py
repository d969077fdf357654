"""What a service shows of itself: each part is looked up when somebody asks, and kept for a moment.

Nobody waits for a part for long: one that does not come in time is missing, with its reason. A look is never begun
while the last one is still under way, so that a server that hangs costs one thread and no more; and whatever a look
takes, at most a tenth of the time is spent on looking. The writer's DuckDB instance is not used.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Generic, TypeVar

from consumer.breaker import Blocked
from consumer.broker import Broker
from consumer.definitions import Definitions
from consumer.election import name_of_part
from consumer.errors import LotusError
from consumer.pending import Pending, pending_keys
from consumer.settings import Settings
from consumer.status import OfTerm, Process, Seen, document_of
from feeders.errors import LakeError
from feeders.health import LakeHealth, look
from feeders.lake import Lake
from feeders.reader import LakeReader
from feeders.standing import Standing, read_standing
from feeders.streams import StreamId

T = TypeVar("T")

KEPT_S = 1.0
KEPT_MOST_S = 30.0
SHARE = 10
"""What was found is kept for this many times what it took to find it."""
QUEUE_PATIENCE_S = 2.0
CATALOG_PATIENCE_S = 2.0
LAKE_PATIENCE_S = 5.0
CLOSE_PATIENCE_S = 1.0
READER_BYTES = 128 * 1024**2


class Part(Generic[T]):
    """One part: looked up at most once at a time. For one event loop.

    Args:
        read: looks it up. It may raise LotusError and LakeError.
        patience_s: how long anybody waits for it.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[T]],
        *,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._patience_s = patience_s
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._found: tuple[T | None, str | None] = (None, "not looked at yet")
        self._until = -1.0

    async def get(self) -> tuple[T | None, str | None]:
        """Returns the part, or None and why it is missing."""
        if self._clock() < self._until:
            return self._found
        if self._task is None:
            self._task = asyncio.create_task(self._refresh())
        task = self._task
        await asyncio.wait({task}, timeout=self._patience_s)
        if not task.done():
            return None, f"no answer in {self._patience_s:g} s"
        if task.cancelled():
            return None, "the term ended"
        task.result()
        return self._found

    async def close(self) -> bool:
        """Waits a moment for a look that is under way; says whether none is any more."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_PATIENCE_S)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            return False
        return True

    async def _refresh(self) -> None:
        began = self._clock()
        try:
            self._found = await self._read(), None
        except (LotusError, LakeError) as error:
            self._found = None, str(error)
        except Exception as error:
            self._found = None, f"an unexpected {type(error).__name__}"
            raise
        finally:
            ended = self._clock()
            self._until = ended + min(KEPT_MOST_S, max(KEPT_S, SHARE * (ended - began)))
            self._task = None


@dataclass(frozen=True, kw_only=True)
class TermView:
    """What the status wants to know of a term.

    Attributes:
        broker: that of the term.
        blocked: the streams that the circuit breaker stopped.
        lost: why notifications of a stream may be lost, or None.
        paused: the streams that a person paused, with who did it and why, in words.
    """

    broker: Broker
    blocked: Callable[[], tuple[Blocked, ...]]
    lost: Callable[[StreamId], str | None]
    paused: Callable[[], dict[StreamId, str]]


class Board:
    """Finds out how everything is. For one event loop."""

    def __init__(self, settings: Settings, definitions: Definitions, process: Callable[[], Process]) -> None:
        self._definitions = definitions
        self._process = process
        self._term: TermView | None = None
        instance = name_of_part(process().instance, "s")
        config = replace(
            settings.lake(instance), may_create=False, memory_limit_bytes=READER_BYTES, threads=1
        )
        self._reader = LakeReader(lambda: Lake(config))
        tiers = settings.maintenance_policy.tiers
        self._catalog: Part[LakeHealth] = Part(
            lambda: in_thread(lambda: look(settings.catalog, tiers)), patience_s=CATALOG_PATIENCE_S
        )
        self._lake: Part[Standing] = Part(lambda: in_thread(self._stand), patience_s=LAKE_PATIENCE_S)
        self._queue: Part[list[Pending]] | None = None

    def begin_term(self, view: TermView) -> None:
        """This process is about to write."""
        self._term = view
        self._queue = Part(lambda: self._count(view.broker), patience_s=QUEUE_PATIENCE_S)

    async def end_term(self) -> None:
        """It writes no more."""
        queue, self._queue, self._term = self._queue, None, None
        if queue is not None:
            await queue.close()

    async def document(self) -> dict[str, object]:
        """Writes the object; takes at most as long as the slowest part is waited for."""
        term, process = self._term, self._process()
        (catalog, catalog_why), (lake, lake_why), (queue, queue_why) = await asyncio.gather(
            self._catalog.get(), self._lake.get(), self._ask_queue()
        )
        why = {"catalog": catalog_why, "lake": lake_why, "queue": queue_why}
        seen = Seen(
            role=process.role,
            process=process,
            of_term=OfTerm() if term is None else self._of_term(term),
            queue=queue,
            catalog=catalog,
            lake=lake,
            missing={part: reason for part, reason in why.items() if reason is not None},
        )
        return document_of(seen, self._definitions, now=datetime.now(UTC))

    async def close(self) -> None:
        """Closes the reader, unless it hangs: then its thread ends with the process."""
        await self._catalog.close()
        if await self._lake.close():
            self._reader.close()

    def _stand(self) -> Standing:
        return self._reader.read(lambda lake: read_standing(lake, now=datetime.now(UTC)))

    async def _count(self, broker: Broker) -> list[Pending]:
        return [
            each async for each in pending_keys(broker, (stream.id for stream in self._definitions.streams))
        ]

    async def _ask_queue(self) -> tuple[list[Pending] | None, str | None]:
        if self._queue is None:
            return None, "only the writer asks NATS"
        return await self._queue.get()

    def _of_term(self, term: TermView) -> OfTerm:
        lost = {stream.id: term.lost(stream.id) for stream in self._definitions.streams}
        return OfTerm(
            paused=term.paused(),
            blocked={each.stream: blocked_words(each) for each in term.blocked()},
            lost={stream: why for stream, why in lost.items() if why is not None},
        )


def blocked_words(blocked: Blocked) -> str:
    """Why the circuit breaker stopped a stream."""
    return f"{blocked.keys:,} keys in a row ended dead: {blocked.reason}; one is tried now and then"


async def in_thread(work: Callable[[], T]) -> T:
    """Runs blocking work in a thread that no end of the process waits for. Raises what it raises."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            settle(partial(done.set_exception, error))
        else:
            settle(partial(done.set_result, result))

    threading.Thread(target=run, name="status", daemon=True).start()
    return await asyncio.wrap_future(done)


def settle(settle_it: Callable[[], None]) -> None:
    """Ends a future; nobody may wait for it any more, and its loop may be closed."""
    with suppress(InvalidStateError, RuntimeError):
        settle_it()
