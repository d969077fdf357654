"""Ending tasks for certain."""

import asyncio
from collections.abc import Iterable
from typing import Any

ASK_AGAIN_S = 0.5


async def end(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    """Cancels tasks and waits until each has ended; asks again as long as one has not.

    One cancel is not enough: before Python 3.12 `asyncio.wait_for` swallows a cancellation that arrives together
    with its result (python/cpython#86296), and nats-py waits with it. A loop around it then goes on for ever.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=ASK_AGAIN_S)
