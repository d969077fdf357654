"""Waiting for what does not answer: capped, jittered backoff, and one log line a minute."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from consumer.errors import Unavailable
from feeders.errors import LakeConflict, LakeUnavailable

T = TypeVar("T")
log = structlog.get_logger()

LINE_EVERY_S = 60.0


class Stopping(Exception):
    """The process was asked to stop while it waited."""


async def until_available(
    what: str,
    call: Callable[[], Awaitable[T]],
    *,
    note: Callable[[str | None], None],
    stop: asyncio.Event,
    silent: Callable[[str], None] = lambda _: None,
) -> T:
    """Calls until it raises no Unavailable, LakeUnavailable or LakeConflict any more; all else is raised at once.

    Args:
        what: what is tried, for the log line.
        call: makes one attempt.
        note: told the reason at each failure, and None at the end, for /readyz.
        stop: ends the waiting.
        silent: told at each failure which dependency did not answer.

    Raises:
        Stopping: `stop` was set.
    """
    last_line = -LINE_EVERY_S

    def report(state: RetryCallState) -> None:
        nonlocal last_line
        error = state.outcome.exception() if state.outcome else None
        note(f"{what}: {error}")
        if isinstance(error, Unavailable | LakeUnavailable):
            silent(error.dependency)
        if time.monotonic() - last_line >= LINE_EVERY_S:
            last_line = time.monotonic()
            log.warning("waiting", what=what, error=str(error), attempts=state.attempt_number)

    async def sleep(seconds: float) -> None:
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            return
        raise Stopping(what)

    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((Unavailable, LakeUnavailable, LakeConflict)),
        wait=wait_exponential_jitter(multiplier=0.2, max=10),
        before_sleep=report,
        sleep=sleep,
    ):
        with attempt:
            result = await call()
        if attempt.retry_state.outcome is not None and not attempt.retry_state.outcome.failed:
            note(None)
            return result
    raise AssertionError("tenacity retries for ever")
