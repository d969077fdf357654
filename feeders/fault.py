"""Named points of the walk at which the crash tests stop the process. Does nothing unless a test arms it."""

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def point(name: str) -> None:
    """Marks a step of the walk."""
    if _hook is not None:
        _hook(name)


def arm(hook: Callable[[str], None] | None) -> None:
    """Makes every point call `hook` with its name; None disarms. For tests/faults only."""
    global _hook  # noqa: PLW0603 - one switch for the process
    _hook = hook
