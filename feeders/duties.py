"""What the writer's thread does beside its queue: each duty says when it is due, and is tried again after an error."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from feeders.epoch import Epoch
from feeders.lake import Lake, LakeError, LakeFenced
from feeders.landings import Landing
from feeders.streams import StreamId

LONGEST_WAIT_S = 30.0


class Duty(Protocol):
    """Work of its own on the writer's thread."""

    def due_in(self, *, idle: bool) -> float | None:
        """Seconds until `run` is due; None when there is nothing to do. `idle`: no key is waiting."""
        ...

    def run(self, lake: Lake, epoch: Epoch) -> None:
        """Does it, in transactions of its own. Raises LakeError."""
        ...

    def not_run(self, error: LakeError) -> None:
        """Hears that `run` raised; it is called again after a while."""
        ...


class FollowUp(Duty, Protocol):
    """What follows commits: the transforms."""

    def changed(self, streams: Iterable[StreamId], landings: Iterable[Landing] = ()) -> None:
        """Notes that the staging tables of these streams changed, and which new objects did it."""
        ...

    def load_behind(self, lake: Lake) -> None:
        """Finds out from the lake what `changed` was not told. Raises LakeError."""
        ...


class Upkeep(Duty, Protocol):
    """What keeps commits cheap: the maintenance of the lake."""

    def committed(self) -> None:
        """Notes that a transaction was committed."""
        ...


class Tried:
    """A duty, and when it may be tried again after an error."""

    def __init__(self, duty: Duty) -> None:
        self._duty = duty
        self._lost_runs = 0
        self._retry_at = 0.0

    def due_in(self, *, idle: bool) -> float | None:
        """Seconds until it is to be run, backoff included; None if never."""
        due = self._duty.due_in(idle=idle)
        return None if due is None else max(due, self._retry_at - time.monotonic(), 0.0)

    def run(self, opened: Callable[[], Lake], epoch: Epoch, *, drop: Callable[[], None]) -> None:
        """Runs it; after an error the lake is dropped. Raises LakeFenced."""
        try:
            self._duty.run(opened(), epoch)
        except LakeFenced:
            raise
        except LakeError as error:
            drop()
            self._lost_runs += 1
            self._retry_at = time.monotonic() + min(LONGEST_WAIT_S, 2.0 ** min(self._lost_runs - 1, 10))
            self._duty.not_run(error)
        else:
            self._lost_runs = 0
