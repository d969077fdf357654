"""Room in the queue: a sweep keeps at most so many keys of a stream there, and waits for the workers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from consumer.subjects import Queued

Of = TypeVar("Of", bound=Queued)
"""Whose keys there is room for."""

WAIT_S = 0.5


class Room(Generic[Of]):
    """Counts down a stream's room in the queue, and asks again when it is used up.

    A stream whose full queue does not move for `stalled_s` (its keys are blocked, or nobody works) is *stalled*:
    from then on there is no room for it, so that the other streams of a sweep don't wait for it.
    """

    def __init__(self, pending: Callable[[Of], Awaitable[int]], max_pending: int, stalled_s: float) -> None:
        self._pending = pending
        self._max_pending = max_pending
        self._stalled_s = stalled_s
        self._left: dict[Of, int] = {}
        self._stalled: set[Of] = set()

    @property
    def stalled(self) -> frozenset[Of]:
        """The streams that there was no room for."""
        return frozenset(self._stalled)

    async def take(self, stream: Of) -> bool:
        """Waits for room for one key; False if the stream is stalled. Raises Unavailable."""
        if stream in self._stalled:
            return False
        if self._left.get(stream, 0) <= 0 and not await self._wait(stream):
            self._stalled.add(stream)
            return False
        self._left[stream] -= 1
        return True

    async def _wait(self, stream: Of) -> bool:
        least, moved_at = None, time.monotonic()
        while True:
            pending = await self._pending(stream)
            self._left[stream] = self._max_pending - pending
            if self._left[stream] > 0:
                return True
            if least is None or pending < least:
                least, moved_at = pending, time.monotonic()
            elif time.monotonic() - moved_at >= self._stalled_s:
                return False
            await asyncio.sleep(WAIT_S)
