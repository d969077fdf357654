"""The verdict: what happens to a message. A pure function of what became of its key and how often it was tried.

A message ends as *done* (acked), *later* (given back with a delay) or *dead* (recorded, announced, given up).
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class Ending(StrEnum):
    """What became of a key in one attempt."""

    LOADED = "loaded"
    REPLACED = "replaced"
    REPLAYED = "replayed"
    DUPLICATE = "duplicate"
    REMOVED = "removed"
    ABSENT = "absent"
    KEPT = "kept"
    STALE = "stale"
    NOT_YET = "not_yet"
    CLAIM_LOST = "claim_lost"
    UNAVAILABLE = "unavailable"
    UNEXPECTED = "unexpected"
    UNROUTED = "unrouted"
    UNDECODABLE = "undecodable"
    POISON = "poison"


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
    """How patient we are. Attempts count only what may be the key's own fault."""

    unexpected_attempts: int = 3
    first_delay_s: float = 1.0
    max_delay_s: float = 60.0


def decide_verdict(ending: Ending, *, attempts: int, policy: Policy, jitter: float) -> Verdict:
    """Decides a message's verdict.

    Args:
        ending: what became of the key.
        attempts: how often it ended like this in a row, this time included.
        policy: how patient we are.
        jitter: from 0 to 1, spreads retries so that they don't come back all at once.
    """
    match ending:
        case (
            Ending.LOADED
            | Ending.REPLACED
            | Ending.REPLAYED
            | Ending.DUPLICATE
            | Ending.REMOVED
            | Ending.ABSENT
            | Ending.KEPT
            | Ending.STALE
        ):
            return Done()
        case Ending.NOT_YET | Ending.UNAVAILABLE:
            return Later(delay_s=backoff(attempts, policy=policy, jitter=jitter))
        case Ending.CLAIM_LOST:
            return Later(delay_s=0.0)
        case Ending.UNEXPECTED:
            if attempts >= policy.unexpected_attempts:
                return Dead()
            return Later(delay_s=backoff(attempts, policy=policy, jitter=jitter))
        case Ending.UNROUTED | Ending.UNDECODABLE | Ending.POISON:
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
