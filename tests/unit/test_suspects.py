"""Suspects: the record of keys in work, over a store in memory with NATS's revisions, and their turns."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import CrashedProcess, HeldBack, Unavailable
from consumer.events import Identity
from consumer.inflight import Record
from consumer.suspects import MOST_SUSPECTS, Suspects
from feeders.errors import LakeFenced
from tests.helpers import wait_until_async

KEYS = [Identity(f"{number:032}") for number in range(2_000)]
A, B, C = KEYS[:3]


class Server:
    """What NATS holds, which outlives every process; `is_away` makes it answer nothing."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.revision = 0
        self.writes = 0
        self.asked = 0
        self.is_away = False
        self.loses_answers = False
        self.queued: set[Identity] = set(KEYS)

    async def kv_read(self, bucket: str, key: str) -> tuple[bytes | None, int]:
        await self._answer()
        return self.value, 0 if self.value is None else self.revision

    async def kv_replace(self, bucket: str, key: str, value: bytes, *, revision: int) -> int | None:
        await self._answer()
        if revision != (0 if self.value is None else self.revision):
            return None
        self.value, self.revision, self.writes = value, self.revision + 1, self.writes + 1
        if self.loses_answers:
            self.loses_answers = False
            raise Unavailable("nats", "the answer was lost")
        return self.revision

    async def has_key(self, identity: Identity) -> bool:
        await self._answer()
        return identity in self.queued

    @property
    def record(self) -> Record:
        assert self.value is not None
        return Record.from_json(self.value)

    async def _answer(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable("nats", "away")


class Process:
    """One term. `die` leaves the server as it is."""

    def __init__(self, server: Server, name: str, *, slots: int = 200) -> None:
        self.is_writer = True
        self.repairs = 0
        self.suspects = Suspects(
            server, writer=name, is_writer=lambda: self.is_writer, repair=self._repair, slots=slots
        )

    async def _repair(self) -> None:
        self.repairs += 1


async def begin(server: Server, name: str, *, slots: int = 200) -> Process:
    process = Process(server, name, slots=slots)
    await process.suspects.begin()
    return process


@asynccontextmanager
async def in_work(process: Process, *keys: Identity) -> AsyncGenerator[None]:
    """These keys are in the region for the block."""
    async with contextlib.AsyncExitStack() as held:
        for key in keys:
            await held.enter_async_context(process.suspects.turn(key))
            await held.enter_async_context(process.suspects.region(key))
        yield


async def killed_with(server: Server, name: str, *keys: Identity) -> dict[Identity, int]:
    """A process that dies with these keys in the region; returns whom the next one suspects."""
    process = await begin(server, name)
    async with in_work(process, *keys):
        value, revision = server.value, server.revision
    # It died inside: what it would have written afterwards does not count.
    server.value, server.revision = value, revision
    return server.record.suspects()


async def test_a_key_is_on_record_while_it_is_in_the_region() -> None:
    server = Server()
    process = await begin(server, "one")
    async with in_work(process, A):
        assert A in server.record.keys
        async with in_work(process, B):
            assert server.record.keys.keys() == {A, B}
    await process.suspects.close()
    assert server.record.keys == {}


async def test_who_was_in_work_at_a_death_is_suspected_and_tried_alone() -> None:
    server = Server()
    assert await killed_with(server, "one", A, B) == {A: 0, B: 0}
    process = await begin(server, "two")
    async with in_work(process, A):
        assert server.record.alone == A
        assert server.record.keys.keys() == {A, B}
        other = asyncio.create_task(_pass(process, C))
        done, _ = await asyncio.wait({other}, timeout=0.1)
        assert not done, "nobody else is in the region"
    await other


async def _pass(process: Process, key: Identity) -> None:
    async with in_work(process, key):
        pass


async def test_the_third_death_alone_is_the_last() -> None:
    server = Server()
    await killed_with(server, "in company", A, B)
    for deaths in (1, 2, 3):
        assert await killed_with(server, f"alone {deaths}", A) == {A: deaths, B: 0}
    process = await begin(server, "last")
    with pytest.raises(CrashedProcess) as crashed:
        await _pass(process, A)
    assert crashed.value.deaths == 3
    await _pass(process, B)


async def test_deaths_in_company_are_counted_for_nobody() -> None:
    server = Server()
    for number in range(5):
        # B is new each time, A a suspect that waits for its turn: whoever dies, it is not A.
        found = await killed_with(server, f"{number}", KEYS[10 + number])
        assert set(found.values()) == {0}


async def test_a_verdict_clears_a_suspect_and_a_retry_does_not() -> None:
    server = Server()
    await killed_with(server, "one", A, B)
    process = await begin(server, "two")
    await _pass(process, A)
    process.suspects.clear(A)
    await _pass(process, B)  # it went back, for an outage
    await process.suspects.close()
    assert server.record.suspects() == {B: 0}


async def test_a_process_that_ends_in_good_order_leaves_no_suspects_and_no_deaths() -> None:
    server = Server()
    await killed_with(server, "one", A)
    process = await begin(server, "two")
    async with in_work(process, A):
        await process.suspects.close()  # the drain's deadline passed while it was tried alone
    assert server.record.suspects() == {A: 0}
    process = await begin(server, "three")
    process.suspects.clear(A)
    async with in_work(process, B):
        await process.suspects.close()
    assert server.record.suspects() == {}


async def test_without_an_answer_nothing_enters_and_nobody_waits_twice() -> None:
    server = Server()
    process = await begin(server, "one")
    server.is_away = True
    writes, asked = server.writes, server.asked
    results = await asyncio.gather(*(_pass(process, key) for key in KEYS[:50]), return_exceptions=True)
    assert {type(each) for each in results} == {Unavailable}
    assert server.asked - asked <= 5, "a key whose write failed does not wait for another write's time-out"
    server.is_away = False
    await _pass(process, A)
    assert server.writes == writes + 1
    assert server.record.keys.keys() == {A}


async def test_a_write_whose_answer_was_lost_is_our_own() -> None:
    server = Server()
    process = await begin(server, "one")
    server.loses_answers = True
    with pytest.raises(Unavailable):
        await _pass(process, A)
    await _pass(process, B)
    assert server.record.keys.keys() == {B}
    assert process.suspects.suspected == {}


async def test_a_lost_store_is_written_again() -> None:
    server = Server()
    await killed_with(server, "one", A)
    process = await begin(server, "two")
    server.value = None
    async with in_work(process, B):
        assert server.record.keys.keys() == {A, B}


async def test_a_zombie_cannot_write_over_the_next_writers_record() -> None:
    server = Server()
    zombie = await begin(server, "zombie")
    async with in_work(zombie, A):
        zombie.is_writer = False
        process = await begin(server, "writer")
        assert process.suspects.suspected == {A: 0}
        with pytest.raises(LakeFenced, match="writer"):
            await _pass(zombie, B)
        await zombie.suspects.close()
        assert server.record.writer == "writer"
        async with in_work(process, C):
            assert server.record.keys.keys() == {A, C}


async def test_a_write_of_a_zombie_that_came_first_is_taken_over() -> None:
    """It was stopped between its last look at the lock and its write."""
    server = Server()
    zombie, process = Process(server, "zombie"), await begin(server, "writer")
    await zombie.suspects.begin()
    async with in_work(zombie, A):
        async with in_work(process, B):
            assert server.record.writer == "writer"
            assert server.record.keys.keys() == {A, B}
        assert process.suspects.suspected == {A: 0}


async def test_many_keys_share_a_write() -> None:
    server = Server()
    process = await begin(server, "one", slots=2000)
    writes, started = server.writes, time.monotonic()
    await asyncio.gather(*(_pass(process, key) for key in KEYS))
    assert server.writes - writes <= 20
    assert time.monotonic() - started < 10


async def test_what_had_its_verdict_before_the_death_is_forgotten() -> None:
    server = Server()
    await killed_with(server, "one", A, B)
    server.queued.discard(A)  # acknowledged by the queue, and the process died before its next write
    process = await begin(server, "two")
    running = asyncio.create_task(process.suspects.run())
    await wait_until_async(
        lambda: _is(server, {B: 0}), what="the record to hold only what is still in the queue"
    )
    running.cancel()


async def _is(server: Server, suspects: dict[Identity, int]) -> bool:
    return server.record.suspects() == suspects


async def test_suspects_leave_slots_to_other_keys() -> None:
    server = Server()
    await killed_with(server, "one", *KEYS[:10])
    process = await begin(server, "two", slots=8)
    held = [asyncio.create_task(_pass(process, key)) for key in KEYS[:10]]
    results = await asyncio.gather(*held, return_exceptions=True)
    assert [each for each in results if each is None] == [None, None], "a quarter of the slots"
    assert sum(isinstance(each, HeldBack) for each in results) == 8


async def test_a_record_beyond_the_bound_keeps_those_with_the_most_deaths() -> None:
    server = Server()
    keys = {Identity(f"{number:032}"): int(number == 77) for number in range(MOST_SUSPECTS + 100)}
    server.value, server.revision = Record(writer="one", keys=keys).to_json(), 1
    process = await begin(server, "two")
    assert len(process.suspects.suspected) == MOST_SUSPECTS
    assert process.suspects.suspected[Identity(f"{77:032}")] == 1
    assert len(server.value) < 512 * 1024


async def test_a_bucket_that_is_gone_is_made_anew() -> None:
    server = Server()
    process = await begin(server, "one")
    server.is_away = True
    running = asyncio.create_task(process.suspects.run())

    async def repaired() -> bool:
        with contextlib.suppress(Unavailable):
            await _pass(process, A)
        return process.repairs > 0

    await wait_until_async(repaired, what="a repair")
    running.cancel()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"schema": "another/1", "writer": "w", "alone": null, "keys": {}}',
        b'{"schema": "lotus-lake.inflight/1", "writer": "w", "alone": null, "keys": {"a": "b"}}',
    ],
)
async def test_a_record_that_is_none_of_ours_suspects_nobody_and_is_replaced(value: bytes) -> None:
    server = Server()
    server.value, server.revision = value, 7
    process = await begin(server, "one")
    assert process.suspects.suspected == {}
    assert server.record.writer == "one"


@given(
    st.dictionaries(st.sampled_from(KEYS), st.integers(min_value=0, max_value=9)),
    st.none() | st.sampled_from(KEYS),
)
def test_a_record_is_read_as_it_was_written(keys: dict[Identity, int], alone: Identity | None) -> None:
    record = Record(writer="one", keys=keys, alone=alone)
    assert Record.from_json(record.to_json()) == record
    assert record.suspects() == {key: deaths + (key == alone) for key, deaths in keys.items()}


async def test_a_record_that_could_not_be_tidied_is_tidied_when_nats_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("consumer.suspects.TIDY_EVERY_S", 0.01)
    server = Server()
    process = await begin(server, "one")
    async with in_work(process, A):
        server.is_away = True
    tidying = asyncio.create_task(process.suspects.run())
    asked = server.asked
    await _until(lambda: server.asked > asked, "a write that gets no answer")
    server.is_away = False
    await _until(lambda: server.record.keys == {}, "the record to be tidy, though no key came since")
    tidying.cancel()
    await asyncio.wait({tidying})


async def _until(is_so: Callable[[], bool], what: str) -> None:
    async def ask() -> bool:
        return is_so()

    await wait_until_async(ask, what=what)
