"""The verdict: what happens to a message. A pure function of what became of its key and how often it was tried.

A message ends as *done* (acked), *later* (given back with a delay) or *dead* (recorded, announced, given up). What
is not the key's own fault never brings it nearer to its death, however often it happens.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class Ending(StrEnum):
    """What became of a key in one attempt.

    SUPERSEDED: the event is about a version that the bucket does not hold any more, and the one that it holds was
    in the lake already. HELD_BACK: it was not its turn, nothing was tried. CRASHED_PROCESS: the process died with it
    too often (`consumer.suspects`).
    """

    LOADED = "loaded"
    REPLACED = "replaced"
    REPLAYED = "replayed"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    REMOVED = "removed"
    ABSENT = "absent"
    KEPT = "kept"
    STALE = "stale"
    NOT_YET = "not_yet"
    HELD_BACK = "held_back"
    CLAIM_LOST = "claim_lost"
    UNAVAILABLE = "unavailable"
    UNEXPECTED = "unexpected"
    UNROUTED = "unrouted"
    UNDECODABLE = "undecodable"
    POISON = "poison"
    CRASHED_PROCESS = "crashed_process"


LOADS = frozenset({Ending.LOADED, Ending.REPLACED, Ending.REPLAYED, Ending.DUPLICATE, Ending.SUPERSEDED})
"""The endings of an object whose rows are in the lake, through the check and the writer."""

FAULTS = frozenset({Ending.UNEXPECTED, Ending.POISON, Ending.CRASHED_PROCESS})
"""The endings of a stream's key that are its own fault: dead, or on the way there."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Ack: nothing is left to do."""


@dataclass(frozen=True, kw_only=True)
class Later:
    """Give back; it comes again after the delay."""

    delay_s: float


@dataclass(frozen=True, kw_only=True)
class Dead:
    """Record the evidence, announce it, and take the message off the queue."""


Verdict = Done | Later | Dead


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How patient we are. Attempts count only what may be the key's own fault.

    Attributes:
        unexpected_attempts: so many, and then the key is dead.
        first_delay_s: the first wait; the next ones double.
        max_delay_s: the longest wait.
        not_yet_delay_s: the longest wait for an object that may not be visible yet. That is over at a certain age
            of the event, and a wait that has grown as long as that would go on far beyond it.
    """

    unexpected_attempts: int = 3
    first_delay_s: float = 1.0
    max_delay_s: float = 60.0
    not_yet_delay_s: float = 8.0


def decide_verdict(
    ending: Ending, *, attempts: int, policy: Policy, jitter: float, is_blocked: bool = False
) -> Verdict:
    """Decides a message's verdict.

    Args:
        ending: what became of the key.
        attempts: how often it ended like this, this time included; other endings don't count.
        policy: how patient we are.
        jitter: from 0 to 1, spreads retries so that they don't come back all at once.
        is_blocked: its stream is (`consumer.breaker`): none of its keys is given up.
    """
    match ending:
        case (
            Ending.LOADED
            | Ending.REPLACED
            | Ending.REPLAYED
            | Ending.DUPLICATE
            | Ending.SUPERSEDED
            | Ending.REMOVED
            | Ending.ABSENT
            | Ending.KEPT
            | Ending.STALE
        ):
            return Done()
        case Ending.NOT_YET:
            delay_s = backoff(attempts, policy=policy, jitter=jitter)
            return Later(delay_s=min(policy.not_yet_delay_s, delay_s))
        case Ending.UNAVAILABLE:
            return Later(delay_s=backoff(attempts, policy=policy, jitter=jitter))
        case Ending.HELD_BACK:
            return Later(delay_s=backoff(1, policy=policy, jitter=jitter))
        case Ending.CLAIM_LOST:
            return Later(delay_s=0.0)
        case Ending.UNEXPECTED:
            if attempts >= policy.unexpected_attempts and not is_blocked:
                return Dead()
            return Later(delay_s=backoff(attempts, policy=policy, jitter=jitter))
        case Ending.POISON | Ending.CRASHED_PROCESS:
            return Later(delay_s=backoff(1, policy=policy, jitter=jitter)) if is_blocked else Dead()
        case Ending.UNROUTED | Ending.UNDECODABLE:
            return Dead()
        case _:
            assert_never(ending)


def backoff(attempts: int, *, policy: Policy, jitter: float) -> float:
    """Seconds until the next attempt: doubles, is capped, and keeps at least half when jittered."""
    whole = min(policy.max_delay_s, policy.first_delay_s * 2.0 ** min(attempts - 1, 16))
    return whole * (0.5 + 0.5 * jitter)


def draw_jitter() -> float:
    """A number from 0 to 1 for `decide_verdict`."""
    return random.random()  # noqa: S311 - spreading retries needs no secrecy
