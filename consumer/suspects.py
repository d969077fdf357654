"""Suspects: keys that were in work when a process died, so that a file that kills it can't do so for ever.

A file may kill the whole process: pyarrow and DuckDB are C++, and the kernel ends what takes too much memory. So
before a key enters the *region* in which that can happen (the check of its file, and the writer), its identity is in
a record in NATS, and the server has acknowledged it. It leaves the record when it leaves the region. What a new term
finds in the record are suspects. One at a time they are tried *alone*: nobody else is in the region meanwhile. So a
death while a suspect is alone is that suspect's; deaths in company are counted for nobody. After MOST_DEATHS of them
it never enters again, and is a dead letter. A suspect that gets a verdict, done or dead, is none any more.

One record for all, and not one for each key: `{"schema", "writer", "alone", "keys": {identity: deaths alone}}`. It is
written by one request at a time, at most every PUT_EVERY_S, each with all that has changed until then. To enter, a
key waits for an acknowledged write that has it; to leave it waits for nothing. If NATS does not answer, the key is not
loaded unprotected: it ends as Unavailable, and comes again.

Takeover. Each write names the revision that it replaces, so of two writers one fails. A new term reads the record,
makes suspects of what the dead, or stopped, writer had in work, and writes it under its own name, before it works.
From then on a zombie's write fails, since the revision that it knows is gone; and it finds a name that is not its
own, and ends with LakeFenced unless the lock of the election is its own again. A record of our own name at another
revision is a write of ours whose answer was lost; a record that is gone means that NATS lost its storage; both are
written again.

The term of a process that lives on, or ends in good order, leaves nothing but suspects without a verdict: nobody died.
A suspect whose message is not in the queue any more had its verdict before the process died, and is forgotten.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import structlog

from consumer.errors import CrashedProcess, HeldBack, Unavailable
from consumer.events import Identity
from consumer.gate import Gate
from feeders.errors import LakeFenced

log = structlog.get_logger()

MOST_DEATHS = 3
"""So many deaths of the process, alone with a key, are the key's fault."""
MOST_SUSPECTS = 5_000
"""Of more, those with the fewest deaths are tried like any other key; bounds the record to some 300 KB."""
MOST_WAITING = 8
"""Suspects that wait for their turn in slots of the worker pool; the others go back to the queue for a while."""
PUT_EVERY_S = 0.01
TIDY_EVERY_S = 0.5
FORGET_EVERY_S = 30.0
REPAIR_AFTER = 5

_SCHEMA = "lotus-lake.inflight/1"
_KEY = "keys"


class Store(Protocol):
    """Where the record is kept, and the queue of keys: `consumer.broker.Broker`. All raise Unavailable."""

    async def kv_read(self, bucket: Literal["inflight"], key: str) -> tuple[bytes | None, int]:
        """Returns a value and its revision; None and 0 if there is none."""
        ...

    async def kv_replace(
        self, bucket: Literal["inflight"], key: str, value: bytes, *, revision: int
    ) -> int | None:
        """Stores a value over that revision and returns its own; None if another one is there."""
        ...

    async def has_key(self, identity: Identity) -> bool:
        """Says whether a key event waits or is in work."""
        ...


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the server holds: who wrote it, each key in work or suspected with its deaths, and who is alone."""

    writer: str
    keys: Mapping[Identity, int]
    alone: Identity | None = None

    def suspects(self) -> dict[Identity, int]:
        """What whoever finds this record has to suspect: the one that was alone has one death more."""
        return {identity: deaths + (identity == self.alone) for identity, deaths in self.keys.items()}

    def to_json(self) -> bytes:
        """Writes the record as JSON."""
        document = {"schema": _SCHEMA, "writer": self.writer, "alone": self.alone, "keys": dict(self.keys)}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> "Record":
        """Reads a record.

        Raises:
            ValueError: it is none.
        """
        document = cast("object", json.loads(value))
        fields = cast("dict[str, object]", document) if isinstance(document, dict) else {}
        writer, alone, keys = (fields.get(name) for name in ("writer", "alone", "keys"))
        if (
            fields.get("schema") == _SCHEMA
            and isinstance(writer, str)
            and isinstance(alone, str | None)
            and isinstance(keys, dict)
        ):
            pairs = cast("dict[str, object]", keys)
            deaths = {Identity(name): count for name, count in pairs.items() if isinstance(count, int)}
            if len(deaths) == len(pairs):
                return cls(writer=writer, keys=deaths, alone=Identity(alone) if alone else None)
        raise ValueError(f"expected a record of schema {_SCHEMA}")


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
        self._is_writer = is_writer
        self._repair = repair
        # Never all slots, else suspects would keep ordinary keys out, unless there is just one.
        self._most_waiting = max(1, min(MOST_WAITING, slots // 4))
        self._suspects: dict[Identity, int] = {}
        self._inside: set[Identity] = set()
        self._alone: Identity | None = None
        self._waiting = 0
        self._turns = asyncio.Lock()
        self._gate = Gate()
        self._putting = asyncio.Lock()
        self._changes = 0
        self._stored = 0
        self._failed: tuple[int, Unavailable] | None = None
        self._failures = 0
        self._revision = 0
        self._put_at = 0.0

    @property
    def suspected(self) -> Mapping[Identity, int]:
        """The suspects without a verdict, with their deaths alone."""
        return self._suspects

    async def begin(self) -> None:
        """Takes the record over from whoever wrote it last.

        Raises:
            Unavailable: NATS does not answer; to be called again.
        """
        value, self._revision = await self._store.kv_read("inflight", _KEY)
        self._adopt(value)
        self._changes += 1
        await self._noted()

    async def run(self) -> None:
        """Keeps the record tidy until cancelled. Raises LakeFenced: another process writes now."""
        forget_at = 0.0
        while True:
            try:
                if self._failures >= REPAIR_AFTER:
                    self._failures = 0
                    await self._repair()
                if self._changes > self._stored:
                    await self._noted()
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
        self._changes += 1
        try:
            await self._noted()
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
                    self._changes += 1
        else:
            async with self._gate.shared():
                self._inside.add(identity)
                try:
                    await self._entered()
                    yield
                finally:
                    self._inside.discard(identity)
                    self._changes += 1

    def clear(self, identity: Identity) -> None:
        """The key has its last verdict: it is no suspect any more."""
        if self._suspects.pop(identity, None) is not None:
            self._changes += 1

    async def _entered(self) -> None:
        self._changes += 1
        await self._noted()

    async def _noted(self) -> None:
        """Waits until the server holds a record with every change up to now; many wait for one write."""
        wanted = self._changes
        async with self._putting:
            if self._stored >= wanted:
                return
            if self._failed is not None and self._failed[0] >= wanted:
                # That write had our change too: to wait for another one would add its time-out to ours.
                raise Unavailable("nats", str(self._failed[1]))
            await asyncio.sleep(max(0.0, self._put_at + PUT_EVERY_S - time.monotonic()))
            changes = self._changes
            try:
                while not await self._put():
                    await self._find_out()
            except Unavailable as error:
                self._failed = (changes, error)
                self._failures += 1
                raise
            self._stored, self._failed, self._failures = changes, None, 0

    async def _put(self) -> bool:
        """Writes the record over the revision that we know; says whether that was the one there."""
        record = Record(
            writer=self._writer, keys={**dict.fromkeys(self._inside, 0), **self._suspects}, alone=self._alone
        )
        try:
            revision = await self._store.kv_replace(
                "inflight", _KEY, record.to_json(), revision=self._revision
            )
        finally:
            self._put_at = time.monotonic()
        if revision is None:
            return False
        self._revision = revision
        return True

    async def _find_out(self) -> None:
        """Finds out why the record has another revision than ours; returns if we may write over it."""
        value, revision = await self._store.kv_read("inflight", _KEY)
        if value is not None and _writer_of(value) != self._writer:
            if not self._is_writer():
                # Its revision must stay unknown to us: it is what keeps us from writing.
                raise LakeFenced(f"the record of keys in work is {_writer_of(value)}'s now")
            self._adopt(value)
        self._revision = revision

    def _adopt(self, value: bytes | None) -> None:
        """Suspects what another writer's record holds."""
        if value is None:
            return
        try:
            found = Record.from_json(value).suspects()
        except ValueError as error:
            log.warning("the record of keys in work can't be read; nothing is suspected", error=str(error))
            return
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


def _writer_of(value: bytes) -> str | None:
    try:
        return Record.from_json(value).writer
    except ValueError:
        return None
