"""Claims: renewed in time, and never found again once they were lost."""

import asyncio
import time
from contextlib import suppress
from typing import cast

from consumer.broker import Delivery
from consumer.claims import Claim
from consumer.errors import Unavailable

ACK_WAIT_S = 0.8


class Queue:
    """As much of a delivery as a claim uses: takes renewals, or does not answer while it is away."""

    def __init__(self) -> None:
        self.away = False
        self.asked_at: list[float] = []
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()

    async def working(self) -> None:
        self.asked_at.append(time.monotonic())
        self.asked.set()
        await self.answer.wait()
        if self.away:
            raise Unavailable("nats", "no answer")

    def claim(self, *, term_lasts: bool = True, ack_wait_s: float = ACK_WAIT_S) -> Claim:
        return Claim(cast("Delivery", self), ack_wait_s, term_lasts=lambda: term_lasts)


async def pass_by(seconds: float) -> None:
    """Lets the event loop run for so long."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), seconds)


async def test_a_claim_is_renewed_at_a_quarter_of_its_time() -> None:
    queue, began_at = Queue(), time.monotonic()
    claim = queue.claim(ack_wait_s=4)
    async with claim.renewed():
        await queue.asked.wait()
        assert 1 <= queue.asked_at[0] - began_at < 2
        assert claim.is_held()


async def test_a_renewal_that_fails_is_tried_again_soon() -> None:
    queue = Queue()
    queue.away = True
    async with queue.claim(ack_wait_s=4).renewed():
        for _ in range(3):
            await queue.asked.wait()
            queue.asked.clear()
    # At a quarter each it would be two seconds.
    assert queue.asked_at[2] - queue.asked_at[0] < 1.5


async def test_a_claim_that_was_lost_stays_lost_and_is_not_renewed_for_its_next_holder() -> None:
    queue = Queue()
    queue.away = True
    claim = queue.claim()
    async with claim.renewed():
        while claim.is_held():
            await pass_by(0.02)
        queue.away = False
        asked = len(queue.asked_at)
        await pass_by(ACK_WAIT_S)
        assert len(queue.asked_at) == asked
        assert not claim.is_held()


async def test_an_answer_that_comes_too_late_renews_nothing() -> None:
    queue = Queue()
    queue.answer.clear()
    claim = queue.claim()
    async with claim.renewed():
        await queue.asked.wait()
        await pass_by(ACK_WAIT_S)
        queue.answer.set()
        await pass_by(ACK_WAIT_S / 8)
        assert not claim.is_held()


async def test_with_the_term_every_claim_ends() -> None:
    assert not Queue().claim(term_lasts=False).is_held()
