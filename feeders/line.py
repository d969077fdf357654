"""A line in which each of several has its turn: what one put in does not make another one wait for all of it."""

from collections import deque
from collections.abc import Container, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class Line(Generic[K, T]):
    """Items of several, taken in turn; those of one in the order in which they came. One thread."""

    def __init__(self) -> None:
        self._of: dict[K, deque[T]] = {}

    def __bool__(self) -> bool:
        """Says whether anything is in it."""
        return bool(self._of)

    def put(self, of: K, item: T) -> None:
        """Puts an item at the end of those of one."""
        self._of.setdefault(of, deque()).append(item)

    def take(self, but: Container[K] = ()) -> T | None:
        """Takes the first item of the one whose turn it is, of those in `but` none; None if there is none."""
        for of, items in self._of.items():
            if of in but:
                continue
            del self._of[of]
            item = items.popleft()
            if items:
                self._of[of] = items  # at the end
            return item
        return None

    def drain(self) -> Iterator[T]:
        """Takes all, in turn."""
        while (item := self.take()) is not None:
            yield item
