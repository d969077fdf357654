"""A claimed message, and the ways in which its claim ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


class Settles(Protocol):
    """Whoever sends a claim's verdict to the server: the broker."""

    async def settle(self, reply: str, verdict: bytes, *, claimed_of: datetime) -> None:
        """Send a verdict and wait until the server has it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A claimed key event or notification. One of `done`, `later` and `dead` ends the claim; each waits for the server.

    Attributes:
        payload: the event as it was sent, not yet validated.
        subject: where it waited; `consumer.subjects.parse_key_subject` reads it.
        num_delivered: 1 at first. An outage raises it as a broken file does, so it decides nothing.
        sequence: the position in the js_stream, the same at every delivery.
        published_at: when the server stored it.
        num_pending: so many of its subscription had not been claimed by anyone when this one was.
        headers: of the message; none if it has none.
    """

    payload: bytes
    subject: str
    num_delivered: int
    sequence: int
    published_at: datetime
    num_pending: int
    _settles: "Settles" = field(repr=False)
    _reply: str = field(repr=False)
    headers: Mapping[str, str] | None = None

    async def done(self) -> None:
        """Take the event out of the queue; it has its verdict."""
        await self._settle(b"+ACK")

    async def later(self, delay_s: float) -> None:
        """Give the event back, to be delivered again after a delay."""
        await self._settle(b'-NAK {"delay": %d}' % max(1, int(delay_s * 1e9)))

    async def dead(self) -> None:
        """Take the event out of the queue for good; a dead letter holds it now."""
        await self._settle(b"+TERM")

    async def working(self) -> None:
        """Renew the claim for another `ack_wait_s`."""
        await self._settle(b"+WPI")

    async def _settle(self, verdict: bytes) -> None:
        await self._settles.settle(self._reply, verdict, claimed_of=self.published_at)
