"""Files of shopify.orders as they land over many days: new orders, and newer versions of recent and of old ones.

Ids grow with time, as Shopify's do, and a file holds its rows in the order of their changes. Some files come days
late, and some keys are written again with other rows.
"""

import io
import random
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from consumer.landing.dice import Dice
from consumer.landing.generate import LandingFile
from consumer.landing.klaviyo import Account
from consumer.landing.parquet import Encoder
from consumer.landing.rows import MAKERS, StreamRows, Sync
from consumer.landing.shop import DAY_US, SECOND_US, Shop
from feeders.arrow import pa, pq
from feeders.streams import Stream

FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
FIRST_US = int(FIRST_DAY.timestamp()) * SECOND_US
DIFFERENT_ROWS = 20_000
"""So many orders are made as the landing makes them; later ones are like one of these, under an id of their own."""
NEW_SHARE = 0.5
OLD_SHARE = 0.03
"""Of all rows, those of any order there ever was. What is neither new nor old is of an order still on its way."""
MEAN_AGE_DAYS = 5.0
LATE_SHARE = 0.1
LATE_DAYS = 10
OVERWRITTEN_SHARE = 0.04
RECENT_FILES = 20
Table: TypeAlias = Any
"""A `pyarrow.Table`."""
_TIMESTAMP = pa.timestamp("us", "UTC")


@dataclass(kw_only=True)
class Orders:
    """The orders so far, by number: their ids and when they were placed; and how many there were after each day."""

    ids: list[int] = field(default_factory=list[int])
    placed_at: list[int] = field(default_factory=list[int])
    by_day: list[int] = field(default_factory=list[int])


class OrderHistory:
    """Makes the files, day after day from day 0 on. `orders` grows with them."""

    def __init__(self, stream: Stream, *, seed: int, orders_a_day: float) -> None:
        """Take the stream of orders, and how many orders make up `MEAN_AGE_DAYS` days."""
        self._stream = stream
        self._dice = random.Random(seed)
        self._pool = _different_rows(stream, seed)
        self._mean_age = MEAN_AGE_DAYS * orders_a_day
        self._names: list[tuple[int, str]] = []
        self.orders = Orders()
        self.recent: deque[Sequence[int]] = deque(maxlen=RECENT_FILES)
        """The ids in each of the last files."""

    @property
    def keys(self) -> list[str]:
        """All keys so far."""
        return [key for _, key in self._names]

    def land(self, day: int, rows: int) -> LandingFile:
        """Makes the next file: of this day for the most part, a late one, or a former key again."""
        while len(self.orders.by_day) <= day:
            self.orders.by_day.append(len(self.orders.ids))
        file = self._file(day, rows)
        self.orders.by_day[day] = len(self.orders.ids)
        return file

    def _file(self, day: int, rows: int) -> LandingFile:
        if self._names and self._dice.random() < OVERWRITTEN_SHARE:
            of_day, key = self._dice.choice(self._names)
            return self._encode(key, self._touched(of_day, rows), day=of_day, overwrites=True)
        of_day = day
        if day and self._dice.random() < LATE_SHARE:
            of_day = max(0, day - self._dice.randint(1, LATE_DAYS))
        key = self._key(of_day)
        numbers = self._touched(of_day, rows) if of_day < day else self._touched_and_new(day, rows)
        return self._encode(key, numbers, day=of_day, overwrites=False)

    def _key(self, day: int) -> str:
        landing, at = self._stream.landing[0], FIRST_DAY + timedelta(days=day)
        key = f"{landing}/year={at:%Y}/month={at:%m}/day={at:%d}/part_{len(self._names):06}.parquet"
        self._names.append((day, key))
        return key

    def _touched_and_new(self, day: int, rows: int) -> list[int]:
        return [
            self._place(day) if self._dice.random() < NEW_SHARE else self._touch(len(self.orders.ids))
            for _ in range(rows)
        ]

    def _touched(self, day: int, rows: int) -> list[int]:
        """Orders that changed on an earlier day."""
        return [self._touch(self.orders.by_day[day]) for _ in range(rows)]

    def _place(self, day: int) -> int:
        last = self.orders.ids[-1] if self.orders.ids else 4_000_000_000_000
        self.orders.ids.append(last + self._dice.randint(1, 4_000))
        self.orders.placed_at.append(FIRST_US + day * DAY_US + self._dice.randrange(86_400) * SECOND_US)
        return len(self.orders.ids) - 1

    def _touch(self, orders: int) -> int:
        """One of the first so many orders: of any age, or, for the most part, of a few days."""
        if not orders:
            return self._place(0)
        if self._dice.random() < OLD_SHARE / (1 - NEW_SHARE):
            return self._dice.randrange(orders)
        return max(0, orders - 1 - int(self._dice.expovariate(1 / self._mean_age)))

    def _encode(self, key: str, numbers: Sequence[int], *, day: int, overwrites: bool) -> LandingFile:
        table = self._pool.take(pa.array([number % DIFFERENT_ROWS for number in numbers]))
        ids = [self.orders.ids[number] for number in numbers]
        moment = FIRST_US + day * DAY_US + self._dice.randrange(DAY_US // 2)
        changed_at = [moment + 1_000_000 * row for row in range(len(numbers))]
        columns = {
            "_airbyte_raw_id": pa.array([_uuid(self._dice) for _ in numbers]),
            "_airbyte_extracted_at": pa.array(
                [moment + DAY_US // 4 + row for row in range(len(ids))], _TIMESTAMP
            ),
            "id": pa.array(ids, pa.int64()),
            "created_at": pa.array([self.orders.placed_at[number] for number in numbers], _TIMESTAMP),
            "updated_at": pa.array(changed_at, _TIMESTAMP),
        }
        for name, values in columns.items():
            table = table.set_column(table.schema.get_field_index(name), name, values)
        body = io.BytesIO()
        pq.write_table(table, body, compression="snappy", store_schema=False)
        self.recent.append(ids)
        return LandingFile(
            key=key,
            source=self._stream.id.source,
            stream=self._stream.id.stream,
            body=body.getvalue(),
            rows=len(ids),
            overwrites=overwrites,
        )


def _different_rows(stream: Stream, seed: int) -> Table:
    shop = Shop(Dice(seed), FIRST_US)
    rows = StreamRows(MAKERS[stream.id], Account(shop=shop))
    made = rows.file(DIFFERENT_ROWS, Sync(sync_id=1, generation_id=1, started_at=shop.now_us))
    body = Encoder(stream.columns).encode(made, codec="none", time_unit="us")
    return pq.read_table(io.BytesIO(body)).combine_chunks()


def _uuid(dice: random.Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))
