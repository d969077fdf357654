"""The circuit breaker: pure, on a clock of the test's own."""

import pytest

from consumer.breaker import Blocked, Breaker
from consumer.events import Identity
from consumer.verdict import FAULTS, LOADS, Ending
from feeders.streams import StreamId

ORDERS = StreamId(source="shopify", stream="orders")
OTHERS = StreamId(source="shopify", stream="customers")
PROBE_S = 60.0


class Watched:
    """A breaker that opens after two failures, with a clock, and what it told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[tuple[StreamId, Blocked | None]] = []
        self.breaker = Breaker(
            keys=2,
            probe_s=PROBE_S,
            changed=lambda stream, blocked: self.told.append((stream, blocked)),
            clock=lambda: self.now,
        )
        self._keys = 0

    def note(
        self,
        ending: Ending,
        reason: str = "corrupt",
        *,
        key: int | None = None,
        stream: StreamId | None = ORDERS,
    ) -> None:
        self._keys += 1
        self.breaker.note(stream, identity(self._keys if key is None else key), ending, reason)

    def block(self) -> None:
        for number in (-1, -2, -3):
            self.note(Ending.POISON, key=number)
        assert self.breaker.is_blocked(ORDERS)


def identity(number: int) -> Identity:
    return Identity(f"{number:032}")


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize("ending", sorted(FAULTS))
def test_one_more_than_the_limit_in_a_row_blocks_the_stream_and_no_other(
    watched: Watched, ending: Ending
) -> None:
    watched.note(ending)
    watched.note(ending)
    assert not watched.breaker.is_blocked(ORDERS)
    watched.note(ending)
    assert watched.breaker.is_blocked(ORDERS)
    assert not watched.breaker.is_blocked(OTHERS)
    (blocked,) = watched.breaker.blocked()
    assert (blocked.stream, blocked.reason, blocked.keys) == (ORDERS, "corrupt", 3)
    assert watched.told == [(ORDERS, blocked)]


def test_one_key_that_fails_again_and_again_is_one_key(watched: Watched) -> None:
    for _ in range(10):
        watched.note(Ending.UNEXPECTED, key=7)
    assert not watched.breaker.is_blocked(ORDERS)


def test_another_reason_begins_another_row(watched: Watched) -> None:
    for reason in ("corrupt", "corrupt", "empty_file", "empty_file", "corrupt", "corrupt"):
        watched.note(Ending.POISON, reason)
    assert not watched.breaker.is_blocked(ORDERS)


@pytest.mark.parametrize("ending", sorted(LOADS))
def test_a_key_that_loads_ends_the_row_and_the_block(watched: Watched, ending: Ending) -> None:
    for each in (Ending.POISON, Ending.POISON, ending, Ending.POISON, Ending.POISON):
        watched.note(each)
    assert not watched.breaker.is_blocked(ORDERS)
    watched.block()
    watched.note(ending)
    assert not watched.breaker.is_blocked(ORDERS)
    assert watched.breaker.blocked() == ()
    assert watched.told[-1] == (ORDERS, None)


@pytest.mark.parametrize("ending", sorted(set(Ending) - FAULTS - LOADS))
def test_all_else_neither_counts_nor_ends_anything(watched: Watched, ending: Ending) -> None:
    for _ in range(10):
        watched.note(ending)
    assert not watched.breaker.is_blocked(ORDERS)
    for each in (Ending.POISON, ending, Ending.POISON, ending, Ending.POISON):
        watched.note(each)
    assert watched.breaker.is_blocked(ORDERS)
    watched.note(ending)
    assert watched.breaker.is_blocked(ORDERS)


def test_keys_of_no_stream_are_never_blocked(watched: Watched) -> None:
    for _ in range(10):
        watched.note(Ending.POISON, stream=None)
    assert not watched.breaker.is_blocked(None)
    assert watched.told == []


def test_a_blocked_stream_is_probed_once_in_a_while(watched: Watched) -> None:
    watched.block()
    assert watched.breaker.probe_in_s(ORDERS) == PROBE_S
    watched.now += PROBE_S
    assert watched.breaker.probe_in_s(ORDERS) == 0
    watched.breaker.choose_probe(ORDERS, [identity(1)])
    watched.note(Ending.POISON, key=1)
    assert watched.breaker.is_blocked(ORDERS)
    assert watched.breaker.probe_in_s(ORDERS) == PROBE_S
    assert len(watched.told) == 1, "a probe that fails is no news"


def test_a_probe_that_proves_nothing_is_followed_by_another_at_once(watched: Watched) -> None:
    """The mended files may be those that were deleted."""
    watched.block()
    watched.now += PROBE_S
    watched.breaker.choose_probe(ORDERS, [identity(1)])
    watched.note(Ending.STALE, key=1)
    assert watched.breaker.probe_in_s(ORDERS) == 0
    watched.breaker.choose_probe(ORDERS, [identity(2)])
    watched.note(Ending.UNAVAILABLE, key=2)
    assert watched.breaker.probe_in_s(ORDERS) == PROBE_S, "an outage is no reason to hurry"


def test_a_key_that_stays_broken_does_not_keep_others_from_being_probed(watched: Watched) -> None:
    watched.block()
    keys = [identity(number) for number in (1, 2, 3)]
    chosen: list[Identity] = []
    for _ in range(6):
        at = watched.breaker.choose_probe(ORDERS, keys)
        chosen.append(keys[at])
        watched.breaker.note(ORDERS, keys[at], Ending.POISON, "corrupt")
    assert chosen[:3] == keys
    assert set(chosen[3:]) == set(keys), "all failed: they are tried again in turn"
    assert not watched.breaker.has_untried(ORDERS, keys)
    assert watched.breaker.has_untried(ORDERS, [*keys, identity(4)])


def test_a_new_breaker_blocks_nothing() -> None:
    assert Watched().breaker.blocked() == ()
