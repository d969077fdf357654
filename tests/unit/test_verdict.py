"""The verdict: a table over every ending, number of attempts and state of the stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.claims import Attempts
from consumer.events import Identity
from consumer.verdict import (
    FAULTS,
    LOADS,
    Dead,
    Done,
    Ending,
    Later,
    Policy,
    Verdict,
    backoff,
    decide_verdict,
    draw_jitter,
)

POLICY = Policy(unexpected_attempts=3, first_delay_s=1.0, max_delay_s=60.0)
FULL = 1.0  # jitter that changes nothing

ATTEMPTS = (1, 2, 3, 4, 100)


def later(delay_s: float) -> Later:
    return Later(delay_s=delay_s)


DONE = (Done(),) * 5
DEAD = (Dead(),) * 5
AT_ONCE = (later(0.0),) * 5
SOON = (later(1.0),) * 5
WAITS = (later(1.0), later(2.0), later(4.0), later(8.0), later(60.0))
THREE_TRIES = (later(1.0), later(2.0), Dead(), Dead(), Dead())

OPEN: dict[Ending, tuple[Verdict, ...]] = {
    # what is in the lake as it should be
    Ending.LOADED: DONE,
    Ending.REPLACED: DONE,
    Ending.REPLAYED: DONE,
    Ending.DUPLICATE: DONE,
    Ending.SUPERSEDED: DONE,
    Ending.REMOVED: DONE,
    Ending.ABSENT: DONE,
    Ending.KEPT: DONE,
    Ending.STALE: DONE,
    # what comes later, however often: an outage is no key's fault
    Ending.NOT_YET: (later(1.0), later(2.0), later(4.0), later(8.0), later(8.0)),
    Ending.UNAVAILABLE: WAITS,
    Ending.HELD_BACK: SOON,
    Ending.CLAIM_LOST: AT_ONCE,
    # what may be the key's fault
    Ending.UNEXPECTED: THREE_TRIES,
    # what no attempt can mend
    Ending.UNROUTED: DEAD,
    Ending.UNDECODABLE: DEAD,
    Ending.POISON: DEAD,
    Ending.CRASHED_PROCESS: DEAD,
}

# A blocked stream gives up none of its keys. What is no stream's key is given up all the same.
BLOCKED = OPEN | {Ending.UNEXPECTED: WAITS, Ending.POISON: SOON, Ending.CRASHED_PROCESS: SOON}


@pytest.mark.parametrize("table", [OPEN, BLOCKED])
def test_the_table_has_every_ending(table: dict[Ending, tuple[Verdict, ...]]) -> None:
    assert set(table) == set(Ending)


@pytest.mark.parametrize(
    ("ending", "attempts", "is_blocked", "expected"),
    [
        (ending, attempts, is_blocked, verdict)
        for is_blocked, table in ((False, OPEN), (True, BLOCKED))
        for ending, verdicts in table.items()
        for attempts, verdict in zip(ATTEMPTS, verdicts, strict=True)
    ],
)
def test_each_ending_has_its_verdict(
    ending: Ending, attempts: int, is_blocked: bool, expected: Verdict
) -> None:
    found = decide_verdict(ending, attempts=attempts, policy=POLICY, jitter=FULL, is_blocked=is_blocked)
    assert found == expected


@given(
    ending=st.sampled_from(Ending),
    attempts=st.integers(min_value=1, max_value=10**9),
    jitter=st.floats(min_value=0, max_value=1),
    is_blocked=st.booleans(),
)
def test_any_ending_has_one_and_no_wait_is_longer_than_the_policy(
    ending: Ending, attempts: int, jitter: float, is_blocked: bool
) -> None:
    verdict = decide_verdict(ending, attempts=attempts, policy=POLICY, jitter=jitter, is_blocked=is_blocked)
    assert isinstance(verdict, Done | Later | Dead)
    if isinstance(verdict, Later):
        assert 0 <= verdict.delay_s <= POLICY.max_delay_s


@given(
    ending=st.sampled_from(sorted(set(Ending) - FAULTS - {Ending.UNROUTED, Ending.UNDECODABLE})),
    attempts=st.integers(min_value=1, max_value=10**9),
)
def test_what_is_not_the_keys_fault_never_kills_it(ending: Ending, attempts: int) -> None:
    assert decide_verdict(ending, attempts=attempts, policy=POLICY, jitter=FULL) != Dead()


def test_a_key_that_loaded_is_at_fault_for_nothing() -> None:
    assert not LOADS & FAULTS
    assert all(OPEN[ending] == DONE for ending in LOADS)


@given(attempts=st.integers(min_value=1, max_value=50))
def test_a_wait_grows_and_jitter_keeps_at_least_half(attempts: int) -> None:
    least, most = (backoff(attempts, policy=POLICY, jitter=jitter) for jitter in (0.0, 1.0))
    assert least == most / 2 > 0
    assert backoff(attempts + 1, policy=POLICY, jitter=0.0) >= least


def test_jitter_is_a_share() -> None:
    assert all(0 <= draw_jitter() <= 1 for _ in range(100))


def test_a_patient_policy_waits_longer_before_it_gives_up() -> None:
    patient = Policy(unexpected_attempts=5)
    assert isinstance(decide_verdict(Ending.UNEXPECTED, attempts=4, policy=patient, jitter=FULL), Later)
    assert isinstance(decide_verdict(Ending.UNEXPECTED, attempts=5, policy=patient, jitter=FULL), Dead)


@given(st.lists(st.sampled_from(Ending), max_size=30))
def test_attempts_of_one_kind_are_counted_apart_from_all_others(endings: list[Ending]) -> None:
    """An outage between two errors of the key's own neither adds to their number nor takes from it."""
    attempts, key, other = Attempts(), Identity("a" * 32), Identity("b" * 32)
    attempts.count(other, Ending.UNEXPECTED)
    for at, ending in enumerate(endings, start=1):
        assert attempts.count(key, ending) == endings[:at].count(ending)
    assert attempts.has_failed(key) == (Ending.UNEXPECTED in endings)
    attempts.forget(key)
    assert not attempts.has_failed(key)
    assert attempts.count(key, Ending.UNEXPECTED) == 1
