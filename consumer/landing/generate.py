"""A landing: the files that Airbyte's S3 destination would write, one after the other, from a seed.

The first nine files are one of each stream; then the streams come by their weights, in both layouts, with any
codec and either time unit. Files are made in the order of time, but some are held back and land later, and
some keys are written again with other content. The sequence depends on the seed and on `rows` alone: a
shorter landing is the beginning of a longer one.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from consumer.landing.dice import Dice
from consumer.landing.engagement import EngagementRow, expected_engagement
from consumer.landing.expected import ExpectedObject, SalesRow, expected_sales
from consumer.landing.klaviyo import Account
from consumer.landing.parquet import CODECS, Encoder
from consumer.landing.people import Row
from consumer.landing.rows import MAKERS, StreamRows, Sync
from consumer.landing.shop import DAY_US, SECOND_US, Shop
from consumer.landing.versions import expected_object
from feeders.lake import describe_create_table
from feeders.project import ProjectError, find_project
from feeders.streams import Stream, StreamId, StreamTable, load_streams

DEFAULT_ROWS = (20, 200)
REMEMBERED_FILES = 40
_FIRST_DAY_US = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * SECOND_US


@dataclass(frozen=True, kw_only=True)
class LandingFile:
    """One object to put. `overwrites` says that an earlier file of this landing had the same key."""

    key: str
    source: str
    stream: str
    body: bytes = field(repr=False)
    rows: int
    overwrites: bool


@dataclass(frozen=True, kw_only=True)
class StreamTotals:
    """What of a stream is in the bucket after all files so far: objects, and the rows in them."""

    objects: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A file with what is remembered of it."""

    file: LandingFile
    stream: Stream
    records: list[Row]
    expected: ExpectedObject


class Landing(Iterator[LandingFile]):
    """The files of a landing, in the order they land, and what they add up to so far.

    One thread at a time. Iterating goes on where it stopped; there is one sequence, and no second pass.
    """

    def __init__(
        self,
        *,
        seed: int,
        files: int | None,
        rows: int | tuple[int, int] = DEFAULT_ROWS,
        prefix: str = "raw",
        streams: StreamTable | None = None,
    ) -> None:
        """Prepares a landing.

        Args:
            seed: same seed, same `rows`: same keys and contents.
            files: how many files, overwrites included; None never ends.
            rows: rows of each file, or the least and the most.
            prefix: where streams without a landing of their own land, in the bucket.
            streams: the streams with their columns and places; by default those of the project's `ddl/`.

        Raises:
            ProjectError: `ddl/` is missing or wrong, or has not all of the nine streams.
            ValueError: rows are fewer than 1, or a column has a type that the landing can't make.
        """
        self._least, self._most = rows if isinstance(rows, tuple) else (rows, rows)
        if not 1 <= self._least <= self._most:
            message = (
                f"rows of a file are {self._least} to {self._most}: at least 1 and in this order, please"
            )
            raise ValueError(message)
        self._streams = _nine(_project_streams(prefix) if streams is None else streams)
        self._encoders = {stream.id: Encoder(stream.columns) for stream in self._streams}
        self._dice = dice = Dice(seed)
        shop = Shop(dice, _FIRST_DAY_US + dice.below(500) * DAY_US + dice.below(DAY_US))
        self._shop = shop
        account = Account(shop=shop)
        self._rows = {stream.id: StreamRows(MAKERS[stream.id], account) for stream in self._streams}
        self._firsts = dice.shuffled(self._streams)
        self._deck = [stream for stream in self._streams for _ in range(MAKERS[stream.id].weight)]
        self._files = files
        self._made = 0
        self._landed = 0
        self._held: list[tuple[int, _Made]] = []
        self._recent: deque[_Made] = deque(maxlen=REMEMBERED_FILES)
        self._objects: dict[str, ExpectedObject] = {}

    def __next__(self) -> LandingFile:
        if self._files is not None and self._landed >= self._files:
            raise StopIteration
        made = self._next()
        self._landed += 1
        self._recent.append(made)
        self._objects[made.file.key] = made.expected
        return made.file

    @property
    def objects(self) -> Mapping[str, ExpectedObject]:
        """What is in the bucket after all files so far: the last content of each key."""
        return self._objects

    def expected_sales(self) -> dict[int, SalesRow]:
        """Returns what `main.fct_sales` must hold once all files so far are loaded, by order id."""
        return expected_sales(self._objects.values())

    def expected_engagement(self) -> dict[str, EngagementRow]:
        """Returns what `main.fct_customer_engagement` must hold then, by profile id."""
        return expected_engagement(self._objects.values(), self.expected_sales())

    def rows_expected(self, stream: StreamId | str) -> int:
        """Returns how many rows of a stream staging must hold: those of the last content of each key."""
        return sum(each.rows for each in self._objects.values() if each.stream == str(stream))

    def totals(self) -> Mapping[str, StreamTotals]:
        """Returns objects and rows of each stream that landed anything, by its name."""
        totals: dict[str, StreamTotals] = {}
        for each in self._objects.values():
            known = totals.get(each.stream, StreamTotals(objects=0, rows=0))
            totals[each.stream] = StreamTotals(objects=known.objects + 1, rows=known.rows + each.rows)
        return totals

    def _next(self) -> _Made:
        """Returns the file that lands next: one whose time has come, a former key again, or a new file."""
        if self._landed < len(self._firsts):
            return self._new_file(self._firsts[self._landed])
        while True:
            for index, (due, made) in enumerate(self._held):
                if due <= self._landed:
                    del self._held[index]
                    return made
            if self._dice.chance(0.05):
                return self._written_again(self._dice.pick(self._recent))
            made = self._new_file(self._dice.pick(self._deck))
            if not self._dice.chance(0.2):
                return made
            self._held.append((self._landed + self._dice.between(1, 12), made))

    def _new_file(self, stream: Stream) -> _Made:
        self._shop.now_us += self._dice.between(60, 5_400) * SECOND_US
        count = self._dice.between(self._least, self._most)
        records = self._rows[stream.id].file(count, self._sync())
        return self._encode(stream, self._key(stream), records, overwrites=False)

    def _written_again(self, former: _Made) -> _Made:
        """Writes a key again: the same rows in another file, or most of them with new ones for the rest."""
        stream = former.stream
        records = former.records
        if self._dice.chance(0.8):
            kept = [row for row in records if self._dice.chance(0.6)]
            count = self._dice.between(self._least, self._most)
            records = self._rows[stream.id].file(count, self._sync(), keep=kept)
        return self._encode(stream, former.file.key, records, overwrites=True)

    def _encode(self, stream: Stream, key: str, records: list[Row], *, overwrites: bool) -> _Made:
        time_unit = "ms" if self._dice.chance(0.5) else "us"
        body = self._encoders[stream.id].encode(records, codec=self._dice.pick(CODECS), time_unit=time_unit)
        file = LandingFile(
            key=key,
            source=stream.id.source,
            stream=stream.id.stream,
            body=body,
            rows=len(records),
            overwrites=overwrites,
        )
        expected = expected_object(stream.id, key, records, time_unit)
        return _Made(file=file, stream=stream, records=records, expected=expected)

    def _sync(self) -> Sync:
        return Sync(sync_id=1_000 + self._made, generation_id=self._made // 100, started_at=self._shop.now_us)

    def _key(self, stream: Stream) -> str:
        """Returns a new key, in either layout. `N` grows with every file, so no key repeats by accident."""
        self._made += 1
        number = self._made
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._shop.now_us)
        place = self._dice.pick(stream.landing)
        if self._dice.chance(0.5):
            return f"{place}/{now:%Y_%m_%d}_{self._shop.now_us // 1_000}_{number}.parquet"
        name = f"part_{number}"
        if self._dice.chance(0.3):
            # The name is free in this layout: what S3 clients and notifications must quote is allowed too.
            name = self._dice.pick(
                (
                    f"{self._dice.uuid()}",
                    f"part-{number:05d}.c000.snappy",
                    f"part {number} (größe)",
                    f"part+{number}=a&b",
                )
            )
        return f"{place}/year={now:%Y}/month={now:%m}/day={now:%d}/{name}.parquet"


def _project_streams(prefix: str) -> StreamTable:
    return load_streams(find_project(None), prefix=prefix, describe=describe_create_table)


def _nine(streams: StreamTable) -> list[Stream]:
    """Returns the streams that there are makers for, always in the same order."""
    found = [stream for name in MAKERS if (stream := streams.get(name)) is not None]
    if missing := [str(name) for name in MAKERS if streams.get(name) is None]:
        message = f"the landing makes {len(MAKERS)} streams, and ddl/ lacks {', '.join(missing)}"
        raise ProjectError(message)
    return found
