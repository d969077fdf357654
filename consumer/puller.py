"""The one puller: asks the subscriptions that have something pending for keys, in turn.

Which ones have something, it knows in three ways:

1. *Hints*: the server says what it has just stored (`consumer.broker.hints`), so a key of an idle stream is claimed at
   once.
2. *Answers*: each message tells how many wait behind it, and what was given back is due after its delay.
3. *Looks*: every LOOK_EVERY_S all subscriptions are listed, for hints that were lost and claims that lapsed.

A stream that has nothing is not asked, nor is one that is paused, that is blocked and has no probe due, or that has its
share of the slots; it keeps nobody else waiting. So the number of streams costs a listing, and no requests.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

import structlog

from consumer.breaker import Breaker
from consumer.broker import Broker, Delivery
from consumer.errors import BrokerMisconfigured, Unavailable
from consumer.events import Identity
from consumer.pauses import Pauses
from consumer.places import Places
from consumer.settle import NoteTrouble
from consumer.subjects import Lane, Queued, subscription_name
from consumer.tasks import end, run_together
from consumer.turns import Turn, Turns
from feeders.streams import StreamId

log = structlog.get_logger()

FETCHES_MOST = 20
"""Requests for keys that are outstanding at once, whatever the number of streams."""
FETCH_MOST = 64
EXPECTED_S = 0.2
"""How long a key that was hinted at is waited for: on a cluster a hint may come before its key can be claimed."""
LOOK_EVERY_S = 2.0
GIVEN_BACK_S = 1.0
LISTEN_AGAIN_S = 1.0
REFUSED_AGAIN_S = 60.0
REPAIR_EVERY = 10
"""After this many failures in a row the js_streams are set up again: the server's storage may be a new one."""
MADE_ANEW_EVERY_S = 5.0
"""Subscriptions that are gone are made anew at once, and if they are gone again, no more often than this."""

Start = Callable[[Delivery, Queued, bool], "asyncio.Task[None]"]
"""Starts the work on a claimed key, in a slot that is taken; told whose it is, and whether it is a probe."""


class Puller:
    """Claims the keys of all subscriptions, for one term. One event loop.

    Args:
        streams: whose keys are asked for, beside those of no stream and replays.
        places: the slots; one is taken for each key that `start` gets, and `worked` gives it back.
        start: begins the work on a key.
        repair: makes subscriptions and js_streams anew that the server lost.
    """

    def __init__(
        self,
        streams: Iterable[StreamId],
        *,
        broker: Broker,
        places: Places,
        pauses: Pauses,
        breaker: Breaker,
        start: Start,
        note_trouble: NoteTrouble,
        repair: Callable[[], Awaitable[None]],
    ) -> None:
        self._all: tuple[Queued, ...] = (*streams, None, *Lane)
        self._broker = broker
        self._places = places
        self._pauses = pauses
        self._breaker = breaker
        self._start = start
        self._note_trouble = note_trouble
        self._repair = repair
        self._turns: Turns[Queued] = Turns()
        self._asking: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._look_now = asyncio.Event()
        self._trouble: Unavailable | None = None
        self._error: BaseException | None = None
        self._made_anew_at = -math.inf
        self._probe_in_s = math.inf
        pauses.listen(self._changed.set)

    async def run(self) -> None:
        """Claims until cancelled. Raises BrokerMisconfigured: the server refuses us."""
        await run_together([self._listen(), self._look(), self._take_turns()])

    def worked(self, of: Queued) -> None:
        """A key's slot is free again."""
        self._places.give_back(of, 1)
        self._changed.set()

    def later(self, of: Queued, delay_s: float) -> None:
        """A key was given back, and comes again after a delay."""
        asyncio.get_running_loop().call_later(delay_s, self._due, of)

    # --- who has something --------------------------------------------------------------------------------

    def _heard(self, of: Queued, sequence: int) -> None:
        self._turns.heard(of, sequence)
        self._changed.set()

    def _due(self, of: Queued) -> None:
        self._turns.due(of)
        self._changed.set()

    async def _listen(self) -> None:
        while True:
            try:
                # What was stored before it is heard is looked for.
                await self._broker.listen(self._all, heard=self._heard, listening=self._look_now.set)
            except Unavailable as error:
                log.debug("no hints of new keys", error=str(error))
                await asyncio.sleep(LISTEN_AGAIN_S)
            except BrokerMisconfigured as error:
                # Looks find the keys all the same.
                log.error("may not hear of new keys: they are looked for", error=str(error), hint=error.hint)
                await asyncio.sleep(REFUSED_AGAIN_S)

    async def _look(self) -> None:
        failures = 0
        while True:
            try:
                await self._look_once()
            except Unavailable as error:
                failures += 1
                await self._wait_for_queue(failures, error)
            else:
                if failures and self._trouble is None:
                    self._note_trouble("nats", None)
                    failures = 0

    async def _look_once(self) -> None:
        """Looks what waits, and then until the next look is due whether it could be claimed."""
        trouble, self._trouble = self._trouble, None
        self._look_now.clear()
        backlog = await self._broker.backlog(self._all)
        for of, counts in backlog.items():
            # Nothing tells of claims that lapse, ours too, or that an earlier process gave back.
            if counts is not None and any(counts):
                self._turns.seen(of, sum(counts))
        self._changed.set()
        gone = [subscription_name(of) for of in self._all if of not in backlog]
        if gone and time.monotonic() - self._made_anew_at >= MADE_ANEW_EVERY_S:
            await self._make_anew(gone)
        elif trouble is not None:
            raise trouble
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._look_now.wait()

    async def _make_anew(self, gone: Sequence[str]) -> None:
        """Makes subscriptions that somebody has removed; the next look, which is due at once, sees what they have."""
        log.warning("subscriptions are gone", count=len(gone), first=gone[0])
        self._made_anew_at = time.monotonic()
        await self._repair()
        self._trouble = None  # of a fetch that met one of them
        self._look_now.set()

    async def _wait_for_queue(self, failures: int, error: Unavailable) -> None:
        self._note_trouble("nats", str(error))
        if failures % REPAIR_EVERY == 1:
            log.warning("queue unavailable", failures=failures, error=str(error))
        if failures % REPAIR_EVERY == 0:
            try:
                await self._repair()
            except Unavailable as again:
                log.warning("queue not repaired", error=str(again))
        await asyncio.sleep(min(10.0, 0.5 * 2.0 ** min(failures, 5)))

    # --- turns --------------------------------------------------------------------------------------------

    async def _take_turns(self) -> None:
        try:
            while self._error is None:
                self._changed.clear()
                self._probe_in_s = math.inf
                while len(self._asking) < FETCHES_MOST and (turn := self._turns.take(self._may_ask)):
                    self._ask(turn)
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if math.isinf(self._probe_in_s) else self._probe_in_s):
                        await self._changed.wait()
            raise self._error
        finally:
            await end(self._asking)

    def _may_ask(self, of: Queued) -> bool:
        if isinstance(of, StreamId) and self._pauses.is_paused(of):
            return False
        if isinstance(of, StreamId) and (probe_in_s := self._breaker.probe_in_s(of)):
            self._probe_in_s = min(self._probe_in_s, probe_in_s)
            return False
        return self._places.free(of) > 0

    def _ask(self, turn: Turn[Queued]) -> None:
        of = turn.of
        if isinstance(of, StreamId) and self._breaker.is_blocked(of):
            self._places.take(of, 1)
            asking = self._probe(of)
        else:
            # Half of what is free at most, so that who is asked at the same time finds some too.
            slots = min(FETCH_MOST, turn.count, -(-self._places.free(of) // 2))
            self._places.take(of, slots)
            asking = self._claim(turn, slots)
        task = asyncio.create_task(asking)
        self._asking.add(task)
        task.add_done_callback(self._asked)

    def _asked(self, task: "asyncio.Task[None]") -> None:
        self._asking.discard(task)
        self._changed.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, Unavailable):
            self._trouble = error
            self._look_now.set()
        else:
            self._error = error

    async def _claim(self, turn: Turn[Queued], slots: int) -> None:
        """Starts work on up to `slots` keys, in slots that are taken already; gives back the others."""
        of = turn.of
        found: list[Delivery] = []
        try:
            found = await self._broker.fetch(of, slots, EXPECTED_S if turn.is_expected else 0)
        finally:
            self._places.give_back(of, slots - len(found))
            # What was given back is not in the count of those that wait.
            more = turn.count - slots if len(found) == slots else 0
            self._turns.done(
                of,
                newest=max((each.sequence for each in found), default=0),
                left=max(more, found[-1].num_pending if found else 0),
            )
        for delivery in found:
            self._start(delivery, of, False)

    async def _probe(self, stream: StreamId) -> None:
        """Works on one key of a blocked stream; the others that come go back, whatever happens."""
        found: list[Delivery] = []
        probe: asyncio.Task[None] | None = None
        try:
            await self._fetch_untried(stream, found)
            if found:
                chosen = self._breaker.choose_probe(stream, [identity_of(each) for each in found])
                probe = self._start(found.pop(chosen), stream, True)
                # Its turn is over with the probe: the next one is chosen by what becomes of this one.
                probe.add_done_callback(lambda _: self._turns.done(stream, left=1))
        finally:
            if probe is None:
                self._places.give_back(stream, 1)
                self._turns.done(stream)
            if found:
                await self._give_back(stream, found)

    async def _fetch_untried(self, stream: StreamId, found: list[Delivery]) -> None:
        """Claims keys until there is one that has not failed since the stream is blocked, or no more come."""
        more = await self._broker.fetch(stream, FETCH_MOST, EXPECTED_S)
        found += more
        while more and not self._breaker.has_untried(stream, [identity_of(each) for each in more]):
            more = await self._broker.fetch(stream, FETCH_MOST, 0)
            found += more

    async def _give_back(self, of: Queued, found: Sequence[Delivery]) -> None:
        """Ends the claims of keys that nobody works on; one whose end the server does not hear of lapses."""
        self.later(of, GIVEN_BACK_S)
        ended = await asyncio.gather(*(each.later(GIVEN_BACK_S) for each in found), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error


def identity_of(delivery: Delivery) -> Identity:
    """The identity that stands at the end of a message's subject."""
    return Identity(delivery.subject.rpartition(".")[2])
