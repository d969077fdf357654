"""Suspects: keys that were in work when a process died, so that a file that kills it can't do so for ever.

A file may kill the whole process: pyarrow and DuckDB are C++, and the kernel ends what takes too much memory. So
before a key enters the *region* in which that can happen (the check of its file, and the writer), its identity is in
a record in NATS (`consumer.inflight`), and the server has acknowledged it. It leaves the record when it leaves the
region, and waits for nothing then. If NATS does not answer, the key is not loaded unprotected: it ends as Unavailable,
and comes again.

What a new term finds in the record are suspects. One at a time they are tried *alone*: nobody else is in the region
meanwhile. So a death while a suspect is alone is that suspect's; deaths in company are counted for nobody. After
MOST_DEATHS of them it never enters again, and is a dead letter. A suspect that gets a verdict, done or dead, is none
any more.

The term of a process that lives on, or ends in good order, leaves nothing but suspects without a verdict: nobody died.
A suspect whose message is not in the queue any more had its verdict before the process died, and is forgotten. Claims
of a dead process come back after ack_wait only, so suspects come later than other keys.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import structlog

from consumer.errors import CrashedProcess, HeldBack, Unavailable
from consumer.events import Identity
from consumer.gate import Gate
from consumer.inflight import Inflight, Record, Store
from feeders.errors import LakeFenced

log = structlog.get_logger()

MOST_DEATHS = 3
"""So many deaths of the process, alone with a key, are the key's fault."""
MOST_SUSPECTS = 5_000
"""Of more, those with the fewest deaths are tried like any other key; bounds the record to some 300 KB."""
MOST_WAITING = 8
"""Suspects that wait for their turn in slots of the worker pool; the others go back to the queue for a while."""
TIDY_EVERY_S = 0.5
FORGET_EVERY_S = 30.0
REPAIR_AFTER = 5


class Suspects:
    """The record of one term, and the turns of its suspects. One event loop.

    Args:
        store: where the record is.
        writer: this term's name, unlike any other term's of any process.
        is_writer: whether this process has the lock of the election.
        repair: makes buckets and js_streams anew that the server lost.
        slots: keys that may be in work at once.
    """

    def __init__(
        self,
        store: Store,
        *,
        writer: str,
        is_writer: Callable[[], bool],
        repair: Callable[[], Awaitable[None]],
        slots: int,
    ) -> None:
        self._store = store
        self._writer = writer
        self._repair = repair
        self._record = Inflight(store, writer=writer, is_writer=is_writer, now=self._now, found=self._suspect)
        # Never all slots, else suspects would keep ordinary keys out, unless there is just one.
        self._most_waiting = max(1, min(MOST_WAITING, slots // 4))
        self._suspects: dict[Identity, int] = {}
        self._inside: set[Identity] = set()
        self._alone: Identity | None = None
        self._waiting = 0
        self._turns = asyncio.Lock()
        self._gate = Gate()

    @property
    def suspected(self) -> Mapping[Identity, int]:
        """The suspects without a verdict, with their deaths alone."""
        return self._suspects

    async def begin(self) -> None:
        """Takes the record over from whoever wrote it last.

        Raises:
            Unavailable: NATS does not answer; to be called again.
        """
        await self._record.take_over()

    async def run(self) -> None:
        """Keeps the record tidy until cancelled. Raises LakeFenced: another process writes now."""
        forget_at = 0.0
        while True:
            try:
                if self._record.failures >= REPAIR_AFTER:
                    self._record.failures = 0
                    await self._repair()
                if not self._record.is_stored:
                    await self._record.stored()
                if self._suspects and time.monotonic() >= forget_at:
                    forget_at = time.monotonic() + FORGET_EVERY_S
                    await self._forget_gone()
            except Unavailable as error:
                log.debug("the record of keys in work waits", error=str(error))
            await asyncio.sleep(TIDY_EVERY_S)

    async def close(self) -> None:
        """Leaves only suspects without a verdict in the record; to be called when no key is in work any more."""
        self._inside.clear()
        self._alone = None
        self._record.changed()
        try:
            await self._record.stored()
        except (Unavailable, LakeFenced) as error:
            log.warning("the record of keys in work was not cleared; they are tried alone", error=str(error))

    @asynccontextmanager
    async def turn(self, identity: Identity) -> AsyncGenerator[None]:
        """Waits for a suspect's turn, around its whole attempt: one suspect at a time takes room from other keys.

        Raises:
            CrashedProcess: it had all its turns.
            HeldBack: too many wait already.
        """
        deaths = self._suspects.get(identity)
        if deaths is None:
            yield
            return
        if deaths >= MOST_DEATHS:
            raise CrashedProcess(deaths)
        if self._waiting >= self._most_waiting:
            raise HeldBack("other keys that were in work when the process died are tried first")
        self._waiting += 1
        try:
            async with self._turns:
                yield
        finally:
            self._waiting -= 1

    @asynccontextmanager
    async def region(self, identity: Identity) -> AsyncGenerator[None]:
        """The block in which a file may kill the process, with its key in the record; a suspect is alone there.

        Raises:
            Unavailable: the record was not acknowledged.
            LakeFenced: another process writes now.
        """
        if identity in self._suspects:
            async with self._gate.alone():
                self._alone = identity
                try:
                    await self._entered()
                    yield
                finally:
                    self._alone = None
                    self._record.changed()
        else:
            async with self._gate.shared():
                self._inside.add(identity)
                try:
                    await self._entered()
                    yield
                finally:
                    self._inside.discard(identity)
                    self._record.changed()

    def clear(self, identity: Identity) -> None:
        """The key has its last verdict: it is no suspect any more."""
        if self._suspects.pop(identity, None) is not None:
            self._record.changed()

    async def _entered(self) -> None:
        self._record.changed()
        await self._record.stored()

    def _now(self) -> Record:
        return Record(
            writer=self._writer, keys={**dict.fromkeys(self._inside, 0), **self._suspects}, alone=self._alone
        )

    def _suspect(self, record: Record) -> None:
        """Suspects what another writer had in work."""
        found = record.suspects()
        for identity, deaths in sorted(found.items(), key=lambda pair: -pair[1])[:MOST_SUSPECTS]:
            if identity not in self._inside:
                self._suspects[identity] = max(deaths, self._suspects.get(identity, 0))
        if found:
            log.warning(
                "keys were in work when the last writer ended; each is tried alone",
                keys=len(found),
                deaths_alone=max(found.values()),
            )

    async def _forget_gone(self) -> None:
        for identity in list(self._suspects):
            if identity != self._alone and not await self._store.has_key(identity):
                self.clear(identity)
