"""Places for keys in work: slots, of which no stream may have all."""

from collections import Counter

from consumer.subjects import Lane, Queued

KEPT_BACK = 8
"""One slot in so many is not for whoever has all others: a new key of another stream finds one."""


class Places:
    """How many keys may be in work, and how many are. One event loop.

    Keys that a person asked for have slots of their own, beside those of all others.
    """

    def __init__(self, *, slots: int, replay_slots: int) -> None:
        self._slots = slots
        self._replay_slots = replay_slots
        self._taken: Counter[Queued] = Counter()
        self._all_taken = 0

    @property
    def share(self) -> int:
        """The most slots that one stream may have."""
        return max(1, self._slots - max(1, self._slots // KEPT_BACK))

    def free(self, of: Queued) -> int:
        """How many more keys of it may be in work."""
        if of is Lane.REPLAYS:
            return self._replay_slots - self._taken[of]
        return min(self._slots - self._all_taken, self.share - self._taken[of])

    def taken(self, of: Queued) -> int:
        """How many keys of it are in work, or may be in a moment."""
        return self._taken[of]

    def take(self, of: Queued, count: int) -> None:
        """Takes slots that are free."""
        self._taken[of] += count
        self._all_taken += count if of is not Lane.REPLAYS else 0

    def give_back(self, of: Queued, count: int) -> None:
        """Gives slots back."""
        self.take(of, -count)
