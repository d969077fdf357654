"""When the writer maintains the lake: in its idle moments, and a fifth of the time when it has none; step by step."""

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
BUSY_REST = 4.0
"""While keys wait, a step is followed by so many times as long without one: maintenance takes a fifth of the time then.
Without any, models that are followed by changed keys got slower with each run, so that more keys waited, so that
there was no idle moment any more: 15 s at five files a second after seven minutes (docs/performance.md)."""


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
        self._rested_at = clock()
        self._looked_at: float | None = None
        self._is_prepared = False
        self._left_out: dict[Step, int] = {}
        self._current: Step | None = None

    def committed(self) -> None:
        """Notes that a transaction was committed."""
        self._commits += 1

    def due_in(self, *, idle: bool) -> float:
        """Seconds until `run` is due. `idle`: no key waits; while some do, it rests for longer than it works."""
        now = self._clock()
        rests = 0.0 if idle else max(0.0, self._rested_at - now)
        if self._steps or self._looked_at is None or self._commits >= LOOK_AFTER_COMMITS:
            return rests
        every_s = LOOK_EVERY_S if self._commits else QUIET_LOOK_EVERY_S
        return max(rests, self._looked_at + every_s - now)

    def run(self, lake: Lake, epoch: Epoch) -> None:
        """Takes the next step, or looks for some.

        A step that fails, or makes nothing fewer, is left out for a while.

        Raises:
            LakeError: nothing was committed, and it is no step's fault.
        """
        started = self._clock()
        try:
            self._take(lake, epoch)
        finally:
            ended = self._clock()
            self._rested_at = ended + BUSY_REST * (ended - started)

    def _take(self, lake: Lake, epoch: Epoch) -> None:
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
