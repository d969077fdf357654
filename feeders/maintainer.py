"""When the writer maintains the lake: in its idle moments, one step at a time."""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from feeders.epoch import Epoch
from feeders.errors import LakeError, StatementFailed
from feeders.health import LakeHealth
from feeders.lake import Lake
from feeders.maintenance import Done, Policy, Step, look_and_plan, prepare, run_step

LOOK_AFTER_COMMITS = 32
"""After so many commits there may be something to do: as many as small files make a merge."""
LOOK_EVERY_S = 60.0
QUIET_LOOK_EVERY_S = 600.0
LOOKS_LEFT_OUT = 32
OVERDUE_COMMITS = 256
"""Where keys come without a pause, a step is taken after so many commits all the same: each of them gets dearer by
0.01 % with each commit before it (docs/performance.md), so the time comes back."""


class Observer(Protocol):
    """Hears what the maintainer sees and does."""

    def looked(self, health: LakeHealth) -> None:
        """The lake's health was read."""
        ...

    def done(self, done: Done) -> None:
        """A step was taken."""
        ...

    def failed(self, step: Step | None, error: LakeError) -> None:
        """A step failed, or with None the look; the lake is as it was."""
        ...


class Maintainer:
    """Knows what is to be done, and does it. Used on the writer's thread only."""

    def __init__(
        self, policy: Policy, observer: Observer, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy
        self._observer = observer
        self._clock = clock
        self._steps: deque[Step] = deque()
        self._commits = 0
        self._commits_since_step = 0
        self._looked_at: float | None = None
        self._is_prepared = False
        self._left_out: dict[Step, int] = {}
        self._current: Step | None = None

    def committed(self) -> None:
        """Notes that a transaction was committed."""
        self._commits += 1
        self._commits_since_step += 1

    def due_in(self, *, idle: bool) -> float | None:
        """Seconds until `run` is due; None while keys wait. `idle`: none does."""
        if not idle and self._commits_since_step < OVERDUE_COMMITS:
            return None
        if self._steps or self._looked_at is None or self._commits >= LOOK_AFTER_COMMITS:
            return 0.0
        every_s = LOOK_EVERY_S if self._commits else QUIET_LOOK_EVERY_S
        return max(0.0, self._looked_at + every_s - self._clock())

    def run(self, lake: Lake, epoch: Epoch) -> None:
        """Takes the next step, or looks for some.

        A step that fails, or makes nothing fewer, is left out for a while.

        Raises:
            LakeError: nothing was committed, and it is no step's fault.
        """
        self._commits_since_step = 0
        self._current = self._steps.popleft() if self._steps else None
        if self._current is None:
            self._look(lake)
            return
        try:
            done = run_step(lake, self._current, self._policy, epoch=epoch)
        except StatementFailed as error:
            self._leave_out(self._current)
            if error.invalidates_instance:
                raise  # and `not_run` tells
            self._observer.failed(self._current, error)
        else:
            if not done.was_useful:
                self._leave_out(self._current)
            self._observer.done(done)

    def not_run(self, error: LakeError) -> None:
        """Hears that `run` raised; it is due again after a while, beginning with a look."""
        self._steps.clear()
        self._observer.failed(self._current, error)

    def _look(self, lake: Lake) -> None:
        if not self._is_prepared:
            prepare(lake, self._policy)
            self._is_prepared = True
        health, steps = look_and_plan(lake, self._policy)
        self._looked_at, self._commits = self._clock(), 0
        self._left_out = {step: looks - 1 for step, looks in self._left_out.items() if looks > 1}
        self._steps.extend(step for step in steps if step not in self._left_out)
        self._observer.looked(health)

    def _leave_out(self, step: Step) -> None:
        # Files of different schema versions stay apart, so a merge may have nothing to merge.
        self._left_out[step] = LOOKS_LEFT_OUT
