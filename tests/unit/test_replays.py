"""Requests for replays: what is kept of them, and what one bad key or a lost queue does to the others."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from consumer import replays
from consumer.broker import Broker, Reply
from consumer.cli.replay import followed, is_good
from consumer.errors import BadRequest, NoResponder, NotFound, Unavailable, UnexpectedAnswer
from consumer.events import Identity, KeyEvent
from consumer.objects import Bucket, Facts
from consumer.replay_request import DeadLetters
from consumer.replays import Replays, named
from consumer.selection import HEADS_AT_ONCE, Chooser
from feeders.lake import Lake
from feeders.letters import LetterFilter
from feeders.parquet import Limits
from feeders.reader import LakeReader, Queryable
from feeders.streams import Stream, StreamId, StreamTable

T = TypeVar("T")

PLACE = "raw/shopify/orders"
ORDERS = Stream(
    id=StreamId(source="shopify", stream="orders"),
    table="stg_shopify__orders",
    landing=(PLACE,),
    columns=(),
    on_new_column="rescue",
    on_delete="keep",
)


def key_of(number: int) -> str:
    return f"{PLACE}/2026_07_04_1_{number}.parquet"


class Objects(Bucket):
    """A bucket that has every object, but for what a test says of one."""

    def __init__(self, errors: dict[str, Exception] | None = None, *, slow: bool = False) -> None:
        self.name = "landing"
        self.errors = errors or {}
        self.slow = slow
        self.asked: list[str] = []

    async def head(self, key: str) -> Facts:
        self.asked.append(key)
        await asyncio.sleep(0.01 if self.slow and key not in self.errors else 0)
        if key in self.errors:
            raise self.errors[key]
        return Facts(etag="e", version_id=None, size_bytes=0, last_modified=datetime.now(UTC))


class Letters(LakeReader):
    """Reads dead letters of so many keys, and counts no rows."""

    def __init__(self, keys: int) -> None:
        super().__init__(no_lake)
        self.keys = [key_of(number) for number in range(keys)]

    def read(self, function: Callable[[Queryable], T]) -> T:
        return function(self)

    def query(self, sql: str, parameters: object = ()) -> list[tuple[Any, ...]]:
        if "DISTINCT key" in sql:
            return [(key,) for key in self.keys]
        return [] if "GROUP BY" in sql else [(0,)]


def no_lake() -> Lake:
    raise AssertionError("no lake is opened")


def chooser(bucket: Bucket, reader: LakeReader, *, most_keys: int = 1000) -> Chooser:
    return Chooser(bucket=bucket, streams=StreamTable([ORDERS]), reader=reader, most_keys=most_keys)


ALL = DeadLetters(which=LetterFilter())


async def test_one_key_that_s3_refuses_fails_no_other() -> None:
    bucket = Objects({key_of(1): UnexpectedAnswer("HTTP 403"), key_of(2): NotFound("404")})
    chosen = await chooser(bucket, Letters(4)).choose(ALL)
    assert sorted(found.key for found in chosen.found) == [key_of(0), key_of(1), key_of(3)]
    assert chosen.missing == [key_of(2)]


async def test_nobody_goes_on_asking_when_s3_is_away() -> None:
    bucket = Objects({key_of(3): Unavailable("s3", "no answer")}, slow=True)
    with pytest.raises(Unavailable):
        await chooser(bucket, Letters(500)).choose(ALL)
    await asyncio.sleep(0.05)
    assert len(bucket.asked) <= 2 * HEADS_AT_ONCE


class Requests:
    """Replays over a queue that a test can lose."""

    def __init__(self, *, keys: int, most_keys: int) -> None:
        self.queue: set[Identity] = set()
        self.reader = Letters(keys)
        self.replays = Replays(
            chooser=chooser(Objects(), self.reader, most_keys=most_keys),
            reader=self.reader,
            limits=Limits(),
            publish=self.publish,
            in_queue=self.in_queue,
        )

    async def publish(self, event: KeyEvent, stream: StreamId | None) -> bool:
        is_new = event.identity() not in self.queue
        self.queue.add(event.identity())
        return is_new

    async def in_queue(self) -> set[Identity]:
        return set(self.queue)

    async def ask(self) -> dict[str, Any]:
        return await self.replays.request(b'{"dead": "*"}')


async def test_keys_of_a_lost_queue_are_no_limit_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "GRACE_S", 0.0)
    requests = Requests(keys=10, most_keys=10)
    for _ in range(5):
        assert (await requests.ask())["state"] == "queued"
    monkeypatch.setattr(replays, "LOOK_EVERY_S", 0.0)
    with pytest.raises(BadRequest) as refused:
        await requests.ask()
    assert refused.value.code == 429
    requests.queue.clear()
    assert (await requests.ask())["queued"] == 10


async def test_what_waits_is_counted_whatever_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "JOBS_KEPT", 3)
    requests = Requests(keys=10, most_keys=10)
    large = await requests.ask()
    requests.reader.keys = [key_of(99)]
    for _ in range(5):
        await requests.ask()
    status = await requests.replays.status(json.dumps({"id": large["id"]}).encode())
    assert status["waiting"] == 10


def test_the_names_of_an_answer_fit_a_message_as_they_are_written() -> None:
    found = named([f"\x01{number:02}" * 341 for number in range(100)])
    assert found["truncated"]
    assert len(json.dumps(found)) < 70_000


class NobodyAnswers(Broker):
    """A connection to a NATS server where no writer is."""

    def __init__(self) -> None:
        pass

    async def ask(self, subject: str, payload: bytes, *, timeout_s: float) -> Reply:
        raise NoResponder(subject)


async def test_who_waits_while_the_writer_ends_is_told() -> None:
    end = await followed(NobodyAnswers(), "lake", {"id": "0" * 16, "keys": 3})
    assert end["state"] == "unknown"
    assert "successor" in str(end["error"])
    so_far: dict[str, object] = {"keys": 3, "outcomes": {}}
    assert not is_good(so_far | end)
