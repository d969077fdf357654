"""The adoption of an old lake: which files of the bucket its rows are from, told before anything is written.

The lake is looked at before the bucket is listed, so that a file whose rows are there is among those that are listed.
Each file is read as the loader reads it: what the ledger will say of a version is of the very bytes that were matched.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from consumer.adopt_read import Desk, Listed, Reading, patiently
from consumer.objects import Bucket
from consumer.spool import Spool
from feeders import adoption_check as books
from feeders.adoption import (
    Adoption,
    Disagreement,
    judge_beyond,
    judge_claims,
    judge_left,
    judge_loaded,
    judge_sources,
    judge_values,
)
from feeders.old_lake import OldLake, OldTable, Position, look_at_lake
from feeders.parquet import Limits
from feeders.streams import Stream, StreamId, StreamTable
from feeders.tables import Table


@dataclass(frozen=True, kw_only=True)
class Positions:
    """How far a person says that streams were loaded.

    Attributes:
        of_streams: instead of the lake's own cursor; None for a stream that has none.
        of_all: of all other streams that have rows.
    """

    of_streams: Mapping[StreamId, Position | None]
    of_all: Position | None

    def of(self, old: OldTable) -> Position | None:
        """How far a stream was loaded; None if nobody says it."""
        if old.stream.id in self.of_streams:
            return self.of_streams[old.stream.id]
        if self.of_all is not None and old.rows:
            return self.of_all
        return None if old.cursor is None else Position(key=old.cursor)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of one stream.

    Attributes:
        position: how far it was loaded; None if nobody says it.
        listed: how many files the bucket has.
        adoption: what is to be written; None if nothing is, or something disagrees.
        accepted: values that the table lacks, and which a replay brings.
    """

    old: OldTable
    position: Position | None
    listed: int = 0
    adoption: Adoption | None = None
    disagreements: tuple[Disagreement, ...] = ()
    accepted: tuple[Disagreement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Check:
    """Holds an old lake against the bucket. The lake's temporary tables say then what is to be written.

    Attributes:
        at_once: files read at the same time.
        tell: hears what is being done, and how far it is.
        replay_later: values that a table lacks are no disagreement.
    """

    desk: Desk
    bucket: Bucket
    spool: Spool
    streams: StreamTable
    tables: Sequence[Table]
    limits: Limits
    positions: Positions
    at_once: int
    tell: Callable[[str, int], None]
    replay_later: bool = False

    async def run(self) -> tuple[OldLake, list[Found]]:
        """Looks at everything; changes nothing.

        Raises:
            Unavailable, LakeError: a dependency does not answer, or the lake can't be taken over.
            DdlRefused: a table can't become what its DDL says.
        """
        old = await self.desk.ask(
            lambda lake: look_at_lake(lake, self.tables, self.streams, bucket=self.bucket.name)
        )
        await self.desk.ask(books.begin_check)
        found: list[Found] = []
        for table in old.tables:
            found.append(await self._stream(table, old.snapshot, sum(each.listed for each in found)))
        return old, found

    async def _stream(self, old: OldTable, snapshot: int, number: int) -> Found:
        """Looks at a stream, whose files get numbers from this one on."""
        position = self.positions.of(old)
        if old.is_known or (not old.rows and position is None):
            return Found(old=old, position=position)
        if (wrong := wrong_position(old, position)) is not None:
            return Found(old=old, position=position, disagreements=(wrong,))
        listed = await patiently(lambda: self._listed(old.stream))
        await self.desk.ask(lambda lake: books.begin_stream(lake, old, snapshot))
        adoption, disagreements = await self._compare(old, position, listed, number)
        accepted: list[Disagreement] = []
        if not disagreements:
            matched = await self.desk.ask(books.keep_match)
            adoption = replace(adoption, matched=matched)
            disagreements = judge_sources(adoption.files, matched, **_names(old.stream))
            lacks = judge_values(adoption.files, matched, **_names(old.stream))
            (accepted if self.replay_later else disagreements).extend(lacks)
        await self.desk.ask(books.end_stream)
        return Found(
            old=old,
            position=position,
            listed=len(listed),
            adoption=None if disagreements else adoption,
            disagreements=tuple(disagreements),
            accepted=tuple(accepted),
        )

    async def _listed(self, stream: Stream) -> list[Listed]:
        return [each async for each in self._list(stream)]

    async def _list(self, stream: Stream) -> AsyncIterator[Listed]:
        seen = 0
        for place in stream.landing:
            async for item in self.bucket.list(f"{place}/"):
                route = self.streams.route(item.key)
                if route is not None and route.stream.id == stream.id:
                    seen += 1
                    self.tell(f"files of {stream.id} listed", seen)
                    yield Listed(item=item, partition=route.partition)

    async def _compare(
        self, old: OldTable, position: Position | None, listed: Sequence[Listed], number: int
    ) -> tuple[Adoption, list[Disagreement]]:
        """Holds a stream's files against its rows, which were noted."""
        stream, reading = old.stream, self._reading(old)
        # 1. Which rows have the files at or before the cursor; without one all files?
        claims = [each for each in listed if covers(position, each)]
        read = await reading.run(claims, number)
        counts = await self.desk.ask(lambda lake: books.count_files(lake, read))
        loaded, found = (
            (read, list[Disagreement]())
            if position is not None
            else judge_loaded(read, counts, **_names(stream))
        )
        await self.desk.ask(lambda lake: books.keep_claims(lake, loaded))
        copies = await self.desk.ask(books.count_copies)
        found += judge_claims(loaded, counts, copies, **_names(stream))
        left = await self.desk.ask(books.count_left)
        # 2. Rows that none of them has: of a file after the cursor? Else those need not be read.
        if left.stray and len(claims) < len(listed):
            await self.desk.ask(books.begin_beyond)
            others = [each for each in listed if not covers(position, each)]
            beyond = await reading.run(others, number + len(claims))
            there = await self.desk.ask(books.count_beyond)
            found += judge_beyond(beyond, there, **_names(stream))
            left = await self.desk.ask(books.count_left)
        # 3. A file that can't be read has no row there if each row is of another one.
        if left.stray or position is not None:
            found += reading.unreadable
        found += judge_left(left, **_names(stream))
        return Adoption(stream=stream.id, files=tuple(loaded), left=len(listed) - len(loaded)), found

    def _reading(self, old: OldTable) -> Reading:
        return Reading(
            stream=old.stream,
            columns=old.columns_held,
            bucket=self.bucket,
            spool=self.spool,
            limits=self.limits,
            at_once=self.at_once,
            desk=self.desk,
            tell=lambda read: self.tell(f"files of {old.stream.id} read", read),
        )


class _Names(TypedDict):
    stream: StreamId
    table: str


def _names(stream: Stream) -> _Names:
    return _Names(stream=stream.id, table=stream.qualified_table)


def covers(position: Position | None, listed: Listed) -> bool:
    """Says whether a file is one that may have been loaded."""
    return position is None or position.covers(listed.item.key, listed.item.last_modified)


def wrong_position(old: OldTable, position: Position | None) -> Disagreement | None:
    """Names a cursor that is no key of its stream: it would tell nothing."""
    key = position.key if position else None
    if key is None or any(key.startswith(f"{place}/") for place in old.stream.landing):
        return None
    return Disagreement(
        kind="cursor",
        stream=old.stream.id,
        table=old.stream.qualified_table,
        key=key,
        detail=f"expected a key below {', '.join(f'{place}/' for place in old.stream.landing)}",
    )
