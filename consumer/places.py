"""Places for keys in work: slots, of which no stream may have all."""

from collections import Counter

from consumer.shares import share_of
from consumer.subjects import Lane, Queued


class Places:
    """How many keys may be in work, and how many are. One event loop.

    Keys that a person asked for have slots of their own, beside those of all others.
    """

    def __init__(self, *, slots: int, replay_slots: int) -> None:
        self._slots = slots
        self._replay_slots = replay_slots
        self._taken: Counter[Queued] = Counter()
        self._all_taken = 0

    def free(self, of: Queued) -> int:
        """How many more keys of it may be in work."""
        if of is Lane.REPLAYS:
            return self._replay_slots - self._taken[of]
        return min(self._slots - self._all_taken, share_of(self._slots) - self._taken[of])

    def take(self, of: Queued, count: int) -> None:
        """Takes slots that are free."""
        self._taken[of] += count
        self._all_taken += count if of is not Lane.REPLAYS else 0

    def give_back(self, of: Queued, count: int) -> None:
        """Gives slots back."""
        self.take(of, -count)
