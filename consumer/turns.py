"""Whose turn it is: the subscriptions that may have something, asked one after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Turn(Generic[T]):
    """One subscription's turn. `is_expected`: something is there for certain, or will be in a moment."""

    of: T
    is_expected: bool


@dataclass(kw_only=True)
class _Asked:
    """What was heard of a subscription while it is asked: a key that this question may have missed."""

    newest: int = 0
    is_due: bool = False


class Turns(Generic[T]):
    """The subscriptions that may have something, in the order in which they are asked. One event loop.

    Who had its turn and has more goes to the end of the line, so nobody is asked twice while another one waits who
    may be asked. Nobody is asked twice at once.
    """

    def __init__(self) -> None:
        self._line: dict[T, bool] = {}
        self._asked: dict[T, _Asked] = {}
        self._claimed: dict[T, int] = {}

    def __len__(self) -> int:
        """How many are in line."""
        return len(self._line)

    def heard(self, of: T, sequence: int) -> None:
        """A message was stored at this position. One that was claimed already is asked for without waiting for it."""
        if asked := self._asked.get(of):
            asked.newest = max(asked.newest, sequence)
        else:
            # Positions of a queue that was made anew begin again: it is in line whatever was claimed before.
            self._line[of] = self._line.get(of, False) or sequence > self._claimed.get(of, 0)

    def due(self, of: T) -> None:
        """A message that was given back is to come about now."""
        if asked := self._asked.get(of):
            asked.is_due = True
        else:
            self._line[of] = True

    def seen(self, of: T) -> None:
        """It was seen to have something, which may be no more to claim for us."""
        if of not in self._asked:
            self._line.setdefault(of, False)

    def take(self, may: Callable[[T], bool]) -> Turn[T] | None:
        """The first in line of whom `may` says that it may be asked; `done` ends its turn."""
        for of in self._line:
            if may(of):
                self._asked[of] = _Asked()
                return Turn(of=of, is_expected=self._line.pop(of))
        return None

    def done(self, of: T, *, newest: int = 0, has_more: bool = False) -> None:
        """A turn is over. `newest` is the greatest position that it claimed, 0 if it found nothing."""
        asked = self._asked.pop(of)
        if newest:
            self._claimed[of] = newest
        if asked.is_due or asked.newest > newest:
            self._line[of] = True
        elif has_more:
            self._line[of] = False
