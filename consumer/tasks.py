"""Ending tasks for certain.

One cancel is not enough: before Python 3.12 `asyncio.wait_for` swallows a cancellation that arrives together with
its result (python/cpython#86296), and nats-py waits with it. A loop around it then goes on for ever. For the same
reason `asyncio.TaskGroup` is not used around such loops: it cancels its tasks only once.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

ASK_AGAIN_S = 0.5


async def end(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    """Cancels tasks and waits until each has ended; asks again as long as one has not.

    A cancellation that comes meanwhile is raised when all have ended, and not before: they have no one else.
    """
    left = {task for task in tasks if not task.done()}
    cancelled: asyncio.CancelledError | None = None
    while left:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=ASK_AGAIN_S)
        except asyncio.CancelledError as error:
            cancelled = error
        left = {task for task in left if not task.done()}
    if cancelled is not None:
        raise cancelled


async def run_together(coroutines: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Runs coroutines until all have returned, one raises, or this is cancelled; none outlives it."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await end(tasks)
