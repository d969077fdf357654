"""Named points of the walk at which the crash tests stop the process. Does nothing unless a test arms it."""

from collections.abc import Callable

POINTS = (
    # on the event loop, for each key
    "claimed",
    "got",
    "noted",
    "checked",
    "submitting",
    # on the writer's thread, for each batch
    "begun",
    "rows written",
    "ledger written",
    "cursors written",
    # around every COMMIT: of the DDL, of a new term, of batches and of models
    "committing",
    "committed",
    # the result's way back, and the verdict
    "delivered",
    "settling",
    "recorded",
    "announced",
    "settled",
    # the models, on the writer's thread
    "transforming",
    "transformed",
    # the ways in
    "published",
    "position saved",
    "page swept",
)
"""In the order of the walk. `recorded` and `announced` are of dead letters only."""

_hook: Callable[[str], None] | None = None


def point(name: str) -> None:
    """Marks a step of the walk; `name` is one of POINTS."""
    if _hook is not None:
        _hook(name)


def arm(hook: Callable[[str], None] | None) -> None:
    """Makes every point call `hook` with its name; None disarms. For tests/faults only."""
    global _hook  # noqa: PLW0603 - one switch for the process
    _hook = hook
