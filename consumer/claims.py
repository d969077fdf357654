"""Claims on key events, the turns of each key, and how often each one was tried."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from consumer.broker import Delivery
from consumer.election import clock
from consumer.errors import Unavailable
from consumer.events import Identity
from consumer.tasks import end
from consumer.verdict import Ending

ATTEMPTS_KEPT = 100_000
MOST_OF_A_KEY = 2


class Claim:
    """The exclusive right to process one key event, renewed at a quarter of `ack_wait_s` while in the block.

    A claim that was not renewed in time is lost for good. The queue may have given the key to someone else by then,
    and takes a renewal that comes too late for theirs.
    """

    def __init__(self, delivery: Delivery, ack_wait_s: float, *, term_lasts: Callable[[], bool]) -> None:
        self._delivery = delivery
        self._ack_wait_s = ack_wait_s
        self._term_lasts = term_lasts
        self._renewed_at = clock()
        self._lapsed = False

    def is_held(self) -> bool:
        """Says whether the queue has certainly not given the key to someone else. From any thread."""
        if clock() - self._renewed_at >= self._ack_wait_s:
            self._lapsed = True
        return not self._lapsed and self._term_lasts()

    @asynccontextmanager
    async def renewed(self) -> AsyncGenerator[None]:
        """Keeps renewing until the block ends, or the claim is lost."""
        task = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            await end([task])

    async def _renew(self) -> None:
        wait_s = self._ack_wait_s / 4
        while True:
            await asyncio.sleep(wait_s)
            asked_at = clock()
            try:
                if self.is_held():
                    await self._delivery.working()
            except Unavailable:
                wait_s = self._ack_wait_s / 16  # the next try may come in time
                continue
            if not self.is_held():
                return
            self._renewed_at = asked_at
            wait_s = self._ack_wait_s / 4


class Attempts:
    """How often each key ended in each way, until its last verdict; the oldest keys are forgotten beyond a bound.

    Each ending is counted by itself: an outage between two errors of the key's own takes nothing from their number,
    and adds nothing to it.
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[Identity, dict[Ending, int]] = OrderedDict()

    def count(self, identity: Identity, ending: Ending) -> int:
        """Counts one more, and says how many it is."""
        counts = self._counts.setdefault(identity, {})
        self._counts.move_to_end(identity)
        counts[ending] = counts.get(ending, 0) + 1
        if len(self._counts) > ATTEMPTS_KEPT:
            self._counts.popitem(last=False)
        return counts[ending]

    def has_failed(self, identity: Identity) -> bool:
        """Says whether an attempt ended in an error that may be the key's own."""
        return Ending.UNEXPECTED in self._counts.get(identity, ())

    def forget(self, identity: Identity) -> None:
        """The key has its last verdict."""
        self._counts.pop(identity, None)


class KeyLocks:
    """One walk at a time for each key, so that of two versions the one read last is loaded last."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def is_crowded(self, key: str) -> bool:
        """Says whether one walks and another waits: a third would only keep a slot from other keys."""
        return key in self._locks and self._locks[key][1] >= MOST_OF_A_KEY

    @asynccontextmanager
    async def held(self, key: str) -> AsyncGenerator[None]:
        """Waits for the key's turn."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
