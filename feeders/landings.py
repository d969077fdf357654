"""When the objects landed whose rows are in staging and not yet in all models below: how fresh the models are."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from feeders.streams import StreamId

MOST = 20_000
"""Of more objects at once, in hours of a failing model, the later ones are not measured."""


@dataclass(frozen=True, kw_only=True)
class Landing:
    """A loaded object: its stream, and when it was put into the bucket."""

    stream: StreamId
    at: datetime


class Landings:
    """Loaded objects that wait for the models. Used on the writer's thread only."""

    def __init__(self) -> None:
        self._waiting: list[Landing] = []

    def note(self, landings: Iterable[Landing]) -> None:
        """Takes what was loaded."""
        room = MOST - len(self._waiting)
        self._waiting += list(landings)[:room]

    def take(self, streams: frozenset[StreamId]) -> tuple[Landing, ...]:
        """Gives out those of these streams, whose models have all."""
        taken = tuple(each for each in self._waiting if each.stream in streams)
        if taken:
            self._waiting = [each for each in self._waiting if each.stream not in streams]
        return taken
