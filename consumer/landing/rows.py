"""The rows of one stream, file after file, with what Airbyte adds to each and all that goes wrong with them.

Some rows come late, some at the very moment of another version, some twice; see `StreamRows`.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from consumer.landing.dice import Dice
from consumer.landing.klaviyo import Account, event_row, profile_row
from consumer.landing.klaviyo_content import campaign_row, flow_row, list_row, metric_row
from consumer.landing.people import Row
from consumer.landing.shop import HOUR_US
from consumer.landing.shopify import customer_row, order_row, refund_row, revise_order, revise_refund
from feeders.streams import StreamId

REMEMBERED_ROWS = 500
MILLISECOND_US = 1_000


@dataclass(frozen=True, kw_only=True)
class Maker:
    """How one stream's records are made, and how often a file is of this stream.

    `revise` changes a record and leaves its key alone; it is there where `fct_sales` depends on the outcome.
    """

    make: Callable[[Account], Row]
    weight: int
    revise: Callable[[Account, Row], Row] | None = None


MAKERS: dict[StreamId, Maker] = {
    StreamId(source="shopify", stream="orders"): Maker(
        make=lambda account: order_row(account.shop),
        weight=32,
        revise=lambda account, row: revise_order(account.shop, row),
    ),
    StreamId(source="shopify", stream="order_refunds"): Maker(
        make=lambda account: refund_row(account.shop),
        weight=22,
        revise=lambda account, row: revise_refund(account.shop, row),
    ),
    StreamId(source="shopify", stream="customers"): Maker(
        make=lambda account: customer_row(account.shop), weight=10
    ),
    StreamId(source="klaviyo", stream="events"): Maker(make=event_row, weight=12),
    StreamId(source="klaviyo", stream="profiles"): Maker(make=profile_row, weight=9),
    StreamId(source="klaviyo", stream="campaigns"): Maker(make=campaign_row, weight=4),
    StreamId(source="klaviyo", stream="flows"): Maker(make=flow_row, weight=4),
    StreamId(source="klaviyo", stream="lists"): Maker(make=list_row, weight=4),
    StreamId(source="klaviyo", stream="metrics"): Maker(make=metric_row, weight=3),
}
"""The nine streams. Weights are shares of a landing in percent."""


@dataclass(frozen=True, kw_only=True)
class Sync:
    """One run of Airbyte's: its number, its generation, and the moment it began."""

    sync_id: int
    generation_id: int
    started_at: int


class StreamRows:
    """Makes the rows of one stream.

    In one file no two rows have the same `_airbyte_raw_id`. Across files, out of a hundred rows about

    - three are older than their file,
    - three have the `_airbyte_extracted_at` of another version of the same record: the raw id decides,
    - two were in an earlier file too,
    - one was, but with other values: `_source_file` decides.
    """

    def __init__(self, maker: Maker, account: Account) -> None:
        self._maker = maker
        self._account = account
        self._dice: Dice = account.shop.dice
        self._earlier: deque[Row] = deque(maxlen=REMEMBERED_ROWS)
        self._extracted_at: dict[Hashable, int] = {}

    def file(self, count: int, sync: Sync, *, keep: list[Row] | None = None) -> list[Row]:
        """Returns a file's rows; those to `keep`, of the key's former content, come first."""
        rows = list(keep or [])[:count]
        raw_ids = {row["_airbyte_raw_id"] for row in rows}
        # Airbyte stamps milliseconds; the column has room for microseconds, and some files use it.
        step = MILLISECOND_US if self._dice.chance(0.7) else 137
        base = sync.started_at // MILLISECOND_US * MILLISECOND_US + (0 if step == MILLISECOND_US else 251)
        made: list[Row] = []
        while len(rows) < count:
            row = self._row(base + len(rows) * step, sync)
            if row["_airbyte_raw_id"] in raw_ids:
                continue
            raw_ids.add(row["_airbyte_raw_id"])
            rows.append(row)
            made.append(row)
        self._earlier.extend(made)
        return rows

    def _row(self, extracted_at: int, sync: Sync) -> Row:
        dice = self._dice
        if self._earlier and dice.chance(0.03):
            row = dice.pick(self._earlier)
            if self._maker.revise is not None and dice.chance(0.33):
                return self._maker.revise(self._account, row)
            return row
        record = self._maker.make(self._account)
        key = record["id"]
        if dice.chance(0.03):
            extracted_at = self._extracted_at.get(key, extracted_at)
        elif dice.chance(0.03):
            extracted_at -= dice.between(1, 48) * HOUR_US
        self._extracted_at[key] = extracted_at
        return {
            "_airbyte_raw_id": dice.uuid(),
            "_airbyte_extracted_at": extracted_at,
            "_airbyte_meta": {"sync_id": dice.maybe(sync.sync_id, present=0.97), "changes": _changes(dice)},
            "_airbyte_generation_id": sync.generation_id,
            **record,
        }


def _changes(dice: Dice) -> list[Row] | None:
    if dice.chance(0.94):
        return []
    change: Row = {"field": "note", "change": "NULLED", "reason": "DESTINATION_FIELD_SIZE_LIMITATION"}
    return dice.pick(([change], [change, {**change, "change": "TRUNCATED", "field": "größe"}], None))
