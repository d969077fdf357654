"""The state of a stream, in one word and one sentence: a pure function of what is known of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

LAGGING_AFTER = timedelta(seconds=60)
"""A key that waits longer than this makes its stream lag."""
DEAD_FOR = timedelta(hours=1)
"""A dead letter that is open and younger than this makes its stream dead-lettering."""


class Role(StrEnum):
    """What the process does that is asked, or that there is none."""

    STARTING = "starting"
    STANDBY = "standby"
    WRITER = "writer"
    DRAINING = "draining"
    NONE = "none"
    UNKNOWN = "unknown"


class StreamState(StrEnum):
    """How a stream is, the gravest first."""

    UNKNOWN = "unknown"
    STOPPED = "stopped"
    STANDBY = "standby"
    PAUSED = "paused"
    BLOCKED = "blocked"
    DEGRADED = "degraded"
    LAGGING = "lagging"
    DEAD_LETTERING = "dead-lettering"
    RUNNING = "running"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a stream.

    Attributes:
        role: of the process that is asked; only the writer knows of the next three.
        paused: who paused it and why; None if nobody did.
        blocked: by what the circuit breaker stopped it; None if it did not.
        lost: why notifications may be lost that no sweep has made up for yet; None if none are.
        oldest_pending_at: since when the first of its keys is in the queue; None if none is.
        dead: open dead letters by reason.
        last_dead_at: when the newest of them failed.
    """

    role: Role
    paused: str | None = None
    blocked: str | None = None
    lost: str | None = None
    oldest_pending_at: datetime | None = None
    dead: tuple[tuple[str, int], ...] = ()
    last_dead_at: datetime | None = None


def state_of(facts: Facts, *, now: datetime) -> tuple[StreamState, str]:
    """Says how a stream is, and why."""
    if facts.role is not Role.WRITER:
        return _without_writer(facts.role)
    if facts.paused is not None:
        return StreamState.PAUSED, facts.paused
    if facts.blocked is not None:
        return StreamState.BLOCKED, facts.blocked
    if facts.lost is not None:
        return StreamState.DEGRADED, f"notifications lost ({facts.lost}): a sweep brings what is missing"
    if facts.oldest_pending_at is not None and (age := now - facts.oldest_pending_at) > LAGGING_AFTER:
        return StreamState.LAGGING, f"a key waits for {int(age.total_seconds())} s"
    if facts.last_dead_at is not None and now - facts.last_dead_at < DEAD_FOR:
        letters = ", ".join(f"{reason} {count:,}" for reason, count in facts.dead)
        return StreamState.DEAD_LETTERING, f"dead letters in the last hour; open: {letters}"
    return StreamState.RUNNING, "what lands is loaded"


def _without_writer(role: Role) -> tuple[StreamState, str]:
    match role:
        case Role.NONE:
            return StreamState.STOPPED, "no writer answers"
        case Role.UNKNOWN:
            return StreamState.UNKNOWN, "NATS could not be asked whether there is a writer"
        case _:
            return StreamState.STANDBY, f"this process is not the writer: {role.value}"
