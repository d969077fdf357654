"""Room that several wait for, each with a share of its own: nobody has all of it, and nobody waits behind one only."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT_BACK = 8
"""One part in so many is not for whoever has all the rest: a newcomer finds some room."""


def share_of(total: int) -> int:
    """The most of it that one may have."""
    return max(1, total - max(1, total // KEPT_BACK))


class Shares(Generic[T]):
    """Bounded room. Who waits for it gets it in turn, and within one user of it, first come, first served.

    An amount that is more than a user's share goes if that user has no other, and one that is more than all, alone.
    Who has its share keeps nobody else waiting; who waits for what all others have is not overtaken. One event loop.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._used_by: Counter[T] = Counter()
        self._waiting: dict[T, deque[tuple[int, asyncio.Future[None]]]] = {}

    @asynccontextmanager
    async def held(self, of: T, amount: int = 1) -> AsyncGenerator[None]:
        """Waits for room, and holds it in the block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(of, deque()).append((amount, turn))
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake()  # it may have been the one that everybody waited behind
            else:
                self._give_back(of, amount)
            raise
        try:
            yield
        finally:
            self._give_back(of, amount)

    def _give_back(self, of: T, amount: int) -> None:
        self.used -= amount
        self._used_by[of] -= amount
        if not self._used_by[of]:
            del self._used_by[of]
        self._wake()

    def _wake(self) -> None:
        while self._let_in():
            pass

    def _let_in(self) -> bool:
        """Gives the next one in turn its room; says whether there was one, and room for it."""
        for of in list(self._waiting):
            waiting = self._waiting[of]
            while waiting and waiting[0][1].done():  # it was cancelled
                waiting.popleft()
            if not waiting:
                del self._waiting[of]
                continue
            amount, turn = waiting[0]
            used_by = self._used_by[of]
            if used_by and used_by + amount > share_of(self.total):
                continue
            if self.used and self.used + amount > self.total:
                return False
            self._take(of, amount)
            turn.set_result(None)
            return True
        return False

    def _take(self, of: T, amount: int) -> None:
        waiting = self._waiting.pop(of)
        waiting.popleft()
        if waiting:
            self._waiting[of] = waiting  # at the end of the line
        self.used += amount
        self._used_by[of] += amount
