"""Whose turn it is: the subscriptions that may have something, asked one after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Turn(Generic[T]):
    """One subscription's turn.

    Attributes:
        of: whose.
        count: so many messages it may have, at least 1; a guess.
        is_expected: one of them is there for certain, or will be in a moment.
    """

    of: T
    count: int
    is_expected: bool


@dataclass(kw_only=True)
class _Known:
    """What was heard of a subscription: so many messages, and the greatest position that one was stored at."""

    count: int = 0
    newest: int = 0
    is_due: bool = False


@dataclass(kw_only=True)
class _Asked(_Known):
    """What is heard of one while it is asked, and the greatest position that was heard before."""

    before: int


class Turns(Generic[T]):
    """The subscriptions that may have something, in the order in which they are asked. One event loop.

    Who had its turn and has more goes to the end of the line, so nobody is asked twice while another one waits who
    may be asked. Nobody is asked twice at once.
    """

    def __init__(self) -> None:
        self._line: dict[T, _Known] = {}
        self._asked: dict[T, _Asked] = {}
        self._claimed: dict[T, int] = {}

    def __len__(self) -> int:
        """How many are in line."""
        return len(self._line)

    def heard(self, of: T, sequence: int) -> None:
        """A message was stored at this position."""
        known = self._known(of)
        known.count += 1
        known.newest = max(known.newest, sequence)

    def due(self, of: T) -> None:
        """A message that was given back is to come about now."""
        known = self._known(of)
        known.count += 1
        known.is_due = True

    def seen(self, of: T, count: int) -> None:
        """It was seen to have so many messages; some may be no more to be claimed, or not yet."""
        if of not in self._asked:
            known = self._known(of)
            known.count = max(known.count, count)

    def take(self, may: Callable[[T], bool]) -> Turn[T] | None:
        """The first in line of whom `may` says that it may be asked; `done` ends its turn."""
        for of in self._line:
            if may(of):
                known = self._line.pop(of)
                self._asked[of] = _Asked(before=known.newest)
                # Positions of a queue that was made anew begin again: it is asked whatever was claimed before.
                is_expected = known.is_due or known.newest > self._claimed.get(of, 0)
                return Turn(of=of, count=max(1, known.count), is_expected=is_expected)
        return None

    def done(self, of: T, *, newest: int = 0, left: int = 0) -> None:
        """A turn is over.

        Args:
            of: whose.
            newest: the greatest position that it claimed, 0 if it found nothing.
            left: so many messages it is known to have still.
        """
        asked = self._asked.pop(of)
        missed = max(asked.newest, asked.before) if newest else asked.newest
        if newest:
            self._claimed[of] = newest
        if asked.is_due or missed > newest or left:
            self._line[of] = _Known(
                count=max(left, asked.count),
                newest=missed if missed > newest else 0,
                is_due=asked.is_due,
            )

    def _known(self, of: T) -> _Known:
        return self._asked.get(of) or self._line.setdefault(of, _Known())
