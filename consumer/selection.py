"""Which objects a replay is about: found in the bucket, or missing there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TypeVar, assert_never

from consumer.errors import BadRequest, NotFound, UnexpectedAnswer
from consumer.objects import Bucket
from consumer.replay_request import Below, Days, DeadLetters, OneKey, Selection
from consumer.tasks import run_together
from feeders.census import loaded_keys
from feeders.letters import count_without_object, dead_keys
from feeders.reader import LakeReader
from feeders.streams import Stream, StreamId, StreamTable

T = TypeVar("T")

HEADS_AT_ONCE = 8
LISTED_BY_MOST = 62
LOOKED_AT_MOST = 10
"""A listing, and the ledger, may have this many times the keys that a request may be about, before it is refused."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object that is to be loaded again, as the bucket has it now."""

    key: str
    stream: Stream
    etag: str
    size_bytes: int


@dataclass(kw_only=True)
class Chosen:
    """What was chosen.

    Attributes:
        found: objects of streams.
        missing: keys that the bucket does not have: the ledger says they are loaded, or they were named.
        unrouted: keys of no stream.
        without_object: dead letters that are about no object of the landing bucket.
    """

    found: list[Found] = field(default_factory=list["Found"])
    missing: list[str] = field(default_factory=list[str])
    unrouted: list[str] = field(default_factory=list[str])
    without_object: int = 0


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Finds out what a request is about; at most `most_keys` keys."""

    bucket: Bucket
    streams: StreamTable
    reader: LakeReader
    most_keys: int

    async def choose(self, selection: Selection) -> Chosen:
        """Looks in bucket, ledger and dead letters.

        Raises:
            BadRequest: there is no such stream, or these are too many keys for one request.
            Unavailable, LakeError: S3 or the lake does not answer.
        """
        match selection:
            case OneKey(key=key):
                return await self._look_at([key])
            case Below(prefix=prefix):
                return await self._list([prefix], lambda _: True, None)
            case Days():
                return await self._days(selection)
            case DeadLetters(which=which):
                bucket, most = self.bucket.name, self.most_keys + 1

                def read() -> tuple[list[str], int]:
                    return self.reader.read(
                        lambda lake: (
                            dead_keys(lake, which, bucket=bucket, limit=most),
                            count_without_object(lake, which, bucket=bucket),
                        )
                    )

                keys, without_object = await asyncio.to_thread(read)
                chosen = await self._look_at(self._hold(keys))
                chosen.without_object = without_object
                return chosen
            case _:
                assert_never(selection)

    async def _look_at(self, keys: Iterable[str]) -> Chosen:
        """Asks for each of these objects."""
        chosen = Chosen()
        left = iter(keys)

        async def look() -> None:
            for key in left:
                route = self.streams.route(key)
                if route is None:
                    chosen.unrouted.append(key)
                    continue
                try:
                    facts = await self.bucket.head(key)
                    etag, size_bytes = facts.etag, facts.size_bytes
                except NotFound:
                    chosen.missing.append(key)
                    continue
                except UnexpectedAnswer:
                    # Nothing is known of this one: its own walk tells why, and the others don't fail with it.
                    etag, size_bytes = "", 0
                chosen.found.append(Found(key=key, stream=route.stream, etag=etag, size_bytes=size_bytes))

        # Not a task for each key, and none goes on asking when one has failed.
        await run_together(look() for _ in range(HEADS_AT_ONCE))
        return chosen

    async def _days(self, days: Days) -> Chosen:
        stream = self.streams.get(days.stream)
        if stream is None:
            known = ", ".join(str(each.id) for each in list(self.streams)[:20])
            raise BadRequest(f"no such stream: {ascii(str(days.stream))[:300]}", hint=f"there are {known}")

        def fits(key: str) -> bool:
            route = self.streams.route(key)
            is_of_it = route is not None and route.stream.id == stream.id
            return is_of_it and route is not None and days.first <= route.partition.date() <= days.last

        return await self._list(prefixes_of(stream, days.first, days.last), fits, stream.id)

    async def _list(
        self, prefixes: list[str], fits: Callable[[str], bool], stream: StreamId | None
    ) -> Chosen:
        """Lists objects, and what the ledger has below the same prefixes."""
        chosen = Chosen()
        seen: set[str] = set()
        async for key, etag, size_bytes in self._listed(prefixes):
            if not fits(key):
                continue
            seen.add(key)
            route = self.streams.route(key)
            if route is None:
                chosen.unrouted.append(key)
            else:
                chosen.found.append(Found(key=key, stream=route.stream, etag=etag, size_bytes=size_bytes))
            self._hold(chosen.found)
            self._hold(chosen.unrouted)
        bucket, most = self.bucket.name, self.most_keys * LOOKED_AT_MOST

        def loaded() -> list[str]:
            keys = self.reader.read(
                lambda lake: loaded_keys(lake, bucket, prefixes=prefixes, stream=stream, limit=most + 1)
            )
            if len(keys) > most:
                raise self._too_many(f"more than {most:,} loaded keys to look at")
            return [key for key in keys if key not in seen and fits(key)]

        chosen.missing = self._hold(await asyncio.to_thread(loaded))
        return chosen

    async def _listed(self, prefixes: list[str]) -> AsyncIterator[tuple[str, str, int]]:
        listed = 0
        for prefix in prefixes:
            async for item in self.bucket.list(prefix):
                listed += 1
                if listed > self.most_keys * LOOKED_AT_MOST:
                    raise self._too_many(f"a listing of more than {listed - 1:,} objects")
                if not item.key.endswith("/"):
                    yield item.key, item.etag, item.size_bytes

    def _hold(self, keys: list[T]) -> list[T]:
        if len(keys) > self.most_keys:
            raise self._too_many(f"more than {self.most_keys:,} keys")
        return keys

    def _too_many(self, found: str) -> BadRequest:
        hint = "ask for a longer prefix or fewer days, or raise LOTUS_REPLAY_MAX_KEYS"
        return BadRequest(f"{found}, expected at most {self.most_keys:,} keys", hint=hint, code=413)


def prefixes_of(stream: Stream, first: date, last: date) -> list[str]:
    """What keys of a stream begin with on these days: by day, or by month or year where there are many days.

    Keys of other days may begin so too.
    """
    days = (last - first).days + 1
    if days > LISTED_BY_MOST * 366:
        return [f"{place}/" for place in stream.landing]
    parts = 3 if days <= LISTED_BY_MOST else 2 if days <= LISTED_BY_MOST * 28 else 1
    begins = {
        tuple((first + timedelta(days=number)).isoformat().split("-")[:parts]): None for number in range(days)
    }
    return [f"{place}/{form}" for place in stream.landing for begin in begins for form in forms(begin)]


def forms(begin: Sequence[str]) -> tuple[str, str]:
    """How the name of a key begins for a year, month or day, in either layout."""
    hive = "".join(f"{name}={part}/" for name, part in zip(("year", "month", "day"), begin, strict=False))
    return hive, "_".join(begin) + "_"
