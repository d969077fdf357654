"""A gate that many pass together, or one alone."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Gate:
    """Many share the place behind it, or one has it alone; in turns, so that neither starves the other.

    One that wants to be alone stops newcomers until those inside have left. When it leaves, all who wait to share
    come in before the next one alone. One event loop.
    """

    def __init__(self) -> None:
        self._sharing = 0
        self._is_alone = False
        self._to_share: deque[asyncio.Future[None]] = deque()
        self._to_be_alone: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def shared(self) -> AsyncGenerator[None]:
        """Waits until nobody is alone inside, or waits to be."""
        if self._is_alone or self._to_be_alone:
            await self._wait(self._to_share)  # who lets us in has counted us
        else:
            self._sharing += 1
        try:
            yield
        finally:
            self._leave()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Waits until nobody is inside, and keeps everyone else out."""
        if self._is_alone or self._sharing:
            await self._wait(self._to_be_alone)
        else:
            self._is_alone = True
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, queue: deque[asyncio.Future[None]]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()  # it was let in, and can't go
            else:
                if turn in queue:
                    queue.remove(turn)
                self._let_in()
            raise

    def _leave(self) -> None:
        if self._is_alone:
            self._is_alone = False
            self._let_share()
        else:
            self._sharing -= 1
        self._let_in()

    def _let_in(self) -> None:
        if self._is_alone:
            return
        while self._to_be_alone and not self._sharing:
            if _give(self._to_be_alone):
                self._is_alone = True
                return
        if not self._to_be_alone:
            self._let_share()

    def _let_share(self) -> None:
        while self._to_share:
            self._sharing += _give(self._to_share)


def _give(queue: deque[asyncio.Future[None]]) -> bool:
    """Gives the first one its turn; says whether it still wants it."""
    turn = queue.popleft()
    if turn.done():
        return False
    turn.set_result(None)
    return True
