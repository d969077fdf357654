"""The verdict: a table over every ending and number of attempts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.verdict import Dead, Done, Ending, Later, Policy, Verdict, backoff, decide_verdict, draw_jitter

POLICY = Policy(unexpected_attempts=3, first_delay_s=1.0, max_delay_s=60.0)
FULL = 1.0  # jitter that changes nothing


def later(delay_s: float) -> Later:
    return Later(delay_s=delay_s)


DONE = (Done(), Done(), Done(), Done())
DEAD = (Dead(), Dead(), Dead(), Dead())
WAITS = (later(1.0), later(2.0), later(4.0), later(60.0))

ATTEMPTS = (1, 2, 3, 100)
TABLE: dict[Ending, tuple[Verdict, ...]] = {
    # what is in the lake as it should be
    Ending.LOADED: DONE,
    Ending.REPLACED: DONE,
    Ending.REPLAYED: DONE,
    Ending.DUPLICATE: DONE,
    Ending.REMOVED: DONE,
    Ending.ABSENT: DONE,
    Ending.KEPT: DONE,
    Ending.STALE: DONE,
    # what comes later, however often: an outage is no key's fault
    Ending.NOT_YET: WAITS,
    Ending.UNAVAILABLE: WAITS,
    Ending.CLAIM_LOST: (later(0.0), later(0.0), later(0.0), later(0.0)),
    # what may be the key's fault
    Ending.UNEXPECTED: (later(1.0), later(2.0), Dead(), Dead()),
    # what no attempt can mend
    Ending.UNROUTED: DEAD,
    Ending.UNDECODABLE: DEAD,
    Ending.POISON: DEAD,
}


def test_the_table_has_every_ending() -> None:
    assert set(TABLE) == set(Ending)


@pytest.mark.parametrize(
    ("ending", "attempts", "expected"),
    [
        (ending, attempts, verdict)
        for ending, verdicts in TABLE.items()
        for attempts, verdict in zip(ATTEMPTS, verdicts, strict=True)
    ],
)
def test_each_ending_has_its_verdict(ending: Ending, attempts: int, expected: Verdict) -> None:
    assert decide_verdict(ending, attempts=attempts, policy=POLICY, jitter=FULL) == expected


@given(
    ending=st.sampled_from(Ending),
    attempts=st.integers(min_value=1, max_value=10**9),
    jitter=st.floats(min_value=0, max_value=1),
)
def test_any_ending_has_one_and_no_wait_is_longer_than_the_policy(
    ending: Ending, attempts: int, jitter: float
) -> None:
    verdict = decide_verdict(ending, attempts=attempts, policy=POLICY, jitter=jitter)
    assert isinstance(verdict, Done | Later | Dead)
    if isinstance(verdict, Later):
        assert 0 <= verdict.delay_s <= POLICY.max_delay_s


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
