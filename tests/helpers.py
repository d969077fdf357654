"""Waiting for conditions, the one place in the tests that sleeps; and how many examples a property is tried with."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hypothesis import settings

_POLL_S = 0.02
T = TypeVar("T")


def wait_until(predicate: Callable[[], T], *, timeout_s: float = 10.0, what: str) -> T:
    """Asks `predicate` until it answers something true, and returns that; fails after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain for: {what} (last answer: {answer!r})")
        time.sleep(_POLL_S)
    return answer


async def wait_until_async(predicate: Callable[[], Awaitable[T]], *, timeout_s: float = 10.0, what: str) -> T:
    """The same for a coroutine function, without blocking the event loop."""
    deadline = time.monotonic() + timeout_s
    while not (answer := await predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain for: {what} (last answer: {answer!r})")
        await asyncio.sleep(_POLL_S)
    return answer


def examples(quick: int) -> int:
    """So many examples in a run of all tests, more of them with the profile `faults`."""
    return max(1, quick * settings().max_examples // 100)


def fuzzed(quick: int) -> settings:
    """Settings of a property that hypothesis tries with so many examples, or more."""
    return settings(deadline=None, max_examples=examples(quick))
