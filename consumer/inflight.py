"""The record of keys in work: who is in the region where a file can kill the process, noted over its death.

One record for all keys in one KV key, and not one for each: `{"schema", "writer", "alone", "keys": {identity: deaths
alone}}`. It is written by one request at a time, at most every PUT_EVERY_S, each with all that has changed until then.
So a key waits for a few milliseconds, and hundreds of small ones share a write.

Takeover. Each write names the revision that it replaces, so of two writers one fails. A new term reads the record,
suspects what the dead, or stopped, writer had in work, and writes it under its own name before it works. From then on
a zombie's write fails, since the revision that it knows is gone; it finds a name that is not its own, and ends with
LakeFenced unless the lock of the election is its own again. The lock decides and not the epoch, which goes back when
the catalog is restored. A record of our own name at another revision is a write of ours whose answer was lost; a
record that is gone means that NATS lost its storage; both are written again.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import structlog

from consumer.errors import Unavailable
from consumer.events import Identity
from feeders.errors import LakeFenced

log = structlog.get_logger()

PUT_EVERY_S = 0.01
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


class Inflight:
    """Keeps the record on the server like the one in memory. One event loop.

    Args:
        store: where the record is.
        writer: this term's name, unlike any other term's of any process.
        is_writer: whether this process has the lock of the election.
        now: the record as it has to be.
        found: told what another writer's record holds.
    """

    def __init__(
        self,
        store: Store,
        *,
        writer: str,
        is_writer: Callable[[], bool],
        now: Callable[[], Record],
        found: Callable[[Record], None],
    ) -> None:
        self._store = store
        self._writer = writer
        self._is_writer = is_writer
        self._now = now
        self._found = found
        self._putting = asyncio.Lock()
        self._changes = 0
        self._stored = 0
        self._tries = 0
        self._failed: tuple[int, Unavailable] | None = None
        self._revision = 0
        self._put_at = 0.0
        self.failures = 0
        """How many writes in a row got no answer."""

    @property
    def is_stored(self) -> bool:
        """Says whether the server holds every change."""
        return self._stored == self._changes

    def changed(self) -> None:
        """Notes that the record in memory is not the server's any more."""
        self._changes += 1

    async def take_over(self) -> None:
        """Reads what the last writer left, and writes it under our name.

        Raises:
            Unavailable: NATS does not answer; to be called again.
        """
        value, self._revision = await self._store.kv_read("inflight", _KEY)
        self._tell(value)
        self.changed()
        await self.stored()

    async def stored(self) -> None:
        """Waits until the server holds every change up to now; many wait for one write.

        Raises:
            Unavailable: NATS does not answer.
            LakeFenced: the record is another writer's, and so is the lock.
        """
        wanted, tries = self._changes, self._tries
        async with self._putting:
            if self._stored >= wanted:
                return
            if self._failed is not None and self._failed[0] >= wanted and self._tries > tries:
                # That write had our change too: to wait for another one would add its time-out to ours.
                raise Unavailable("nats", str(self._failed[1]))
            await asyncio.sleep(max(0.0, self._put_at + PUT_EVERY_S - time.monotonic()))
            changes = self._changes
            self._tries += 1
            try:
                while not await self._put():
                    await self._find_out()
            except Unavailable as error:
                self._failed = (changes, error)
                self.failures += 1
                raise
            self._stored, self._failed, self.failures = changes, None, 0

    async def _put(self) -> bool:
        """Writes the record over the revision that we know; says whether that was the one there."""
        try:
            revision = await self._store.kv_replace(
                "inflight", _KEY, self._now().to_json(), revision=self._revision
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
        writer = _writer_of(value)
        if value is not None and writer != self._writer:
            if not self._is_writer():
                # Its revision must stay unknown to us: it is what keeps us from writing.
                raise LakeFenced(f"the record of keys in work is {writer}'s now")
            self._tell(value)
        self._revision = revision

    def _tell(self, value: bytes | None) -> None:
        if value is None:
            return
        try:
            self._found(Record.from_json(value))
        except ValueError as error:
            log.warning("the record of keys in work can't be read; nothing is suspected", error=str(error))


def _writer_of(value: bytes | None) -> str | None:
    try:
        return None if value is None else Record.from_json(value).writer
    except ValueError:
        return None
