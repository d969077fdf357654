"""The circuit breaker: a stream whose keys all end dead for one reason is stopped before it empties its queue so.

When a producer breaks, its files break one after the other. After more than `keys` different keys of a stream in a
row that ended by their own fault (`verdict.FAULTS`) and for one and the same reason, the stream is *blocked*: its
keys stay in the queue, none is given up, and every `probe_s` one is tried. A key that loads ends it. Outages never
count, and neither do keys of no stream, messages that are no key events and replays, which a person asked for.

The state is the term's: it is in memory only, and a new term starts with every stream unblocked. Then it takes as
many dead letters again to block it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumer.events import Identity
from consumer.verdict import FAULTS, LOADS, Ending
from feeders.streams import StreamId

_PROVES_NOTHING = frozenset({Ending.REMOVED, Ending.ABSENT, Ending.KEPT, Ending.STALE})
"""Done, without a file that was read: it neither blocks nor unblocks, and the next probe need not wait."""


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """A stream that is blocked: since when, by what, and how many keys in a row that took."""

    stream: StreamId
    reason: str
    since: datetime
    keys: int


@dataclass(kw_only=True)
class _Row:
    """The keys of a stream that failed in a row for one reason."""

    reason: str
    failed: set[Identity] = field(default_factory=set[Identity])


@dataclass(kw_only=True)
class _Block:
    about: Blocked
    probe_at: float
    tried: set[Identity]


class Breaker:
    """Which streams of a term are blocked. One event loop.

    Args:
        keys: how many failures in a row are borne; one more blocks.
        probe_s: seconds from one probe of a blocked stream to the next.
        changed: told when a stream is blocked, and with None when it is not any more.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        keys: int,
        probe_s: float,
        changed: Callable[[StreamId, Blocked | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._probe_s = probe_s
        self._changed = changed
        self._clock = clock
        self._rows: dict[StreamId, _Row] = {}
        self._blocks: dict[StreamId, _Block] = {}

    def is_blocked(self, stream: StreamId | None) -> bool:
        """Says whether a stream's keys have to stay in the queue."""
        return stream in self._blocks

    def blocked(self) -> tuple[Blocked, ...]:
        """The streams that are blocked, for who asks how things are."""
        return tuple(block.about for block in self._blocks.values())

    def probe_in_s(self, stream: StreamId) -> float:
        """Seconds until a blocked stream's next probe is due."""
        block = self._blocks.get(stream)
        return max(0.0, block.probe_at - self._clock()) if block else 0.0

    def has_untried(self, stream: StreamId, found: Sequence[Identity]) -> bool:
        """Says whether one of these keys has not failed since the stream is blocked."""
        block = self._blocks.get(stream)
        return block is None or not block.tried.issuperset(found)

    def choose_probe(self, stream: StreamId, found: Sequence[Identity]) -> int:
        """Chooses the key to try, by its place in `found`, and sets when the next one is due.

        One that has not failed in this block, if there is any: keys that were given back come before new ones, and
        one of them that stays broken would be the probe for ever.
        """
        block = self._blocks.get(stream)
        if block is None:
            return 0
        block.probe_at = self._clock() + self._probe_s
        untried = [place for place, identity in enumerate(found) if identity not in block.tried]
        if not untried:
            block.tried.clear()
        return untried[0] if untried else 0

    def note(self, stream: StreamId | None, identity: Identity, ending: Ending, reason: str) -> None:
        """Hears how a key of a stream ended, before its verdict is decided."""
        if stream is None:
            return
        if ending in LOADS:
            self._rows.pop(stream, None)
            if self._blocks.pop(stream, None) is not None:
                self._changed(stream, None)
        elif ending in FAULTS:
            self._note_failure(stream, identity, reason)
        elif ending in _PROVES_NOTHING and (block := self._blocks.get(stream)):
            block.probe_at = self._clock()

    def _note_failure(self, stream: StreamId, identity: Identity, reason: str) -> None:
        if block := self._blocks.get(stream):
            block.tried.add(identity)
            return
        row = self._rows.get(stream)
        if row is None or row.reason != reason:
            row = self._rows[stream] = _Row(reason=reason)
        row.failed.add(identity)
        if len(row.failed) > self._keys:
            about = Blocked(stream=stream, reason=reason, since=datetime.now(UTC), keys=len(row.failed))
            self._blocks[stream] = _Block(
                about=about, probe_at=self._clock() + self._probe_s, tried={identity}
            )
            del self._rows[stream]
            self._changed(stream, about)
