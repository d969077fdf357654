"""Rows of few orders and refunds that come and go: each way of deciding which of an order's rows is newest occurs.

Tried once against broken code, and failed each time: with equally new rows taken for newer ones, rows that went for
rows that stayed, older rows that came for newer ones, and of two rows without a time any one for the newest; and with
the orders that just came taken for all that a model below needs, though refunds of others came too.
"""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

import pytest

from consumer.embedded.stack import Stack
from feeders.increment import ModelRun
from feeders.lake import Lake
from feeders.models import below
from feeders.streams import StreamId
from feeders.transform import Transforms
from tests.benchmarks.orders_lake import ORDERS, TABLE
from tests.exact import assert_models
from tests.helpers import examples
from tests.lakes import definitions, open_lake, start_term

REFUNDS = StreamId(source="shopify", stream="order_refunds")
REFUNDS_TABLE = "staging.stg_shopify__order_refunds"
KEYS = 12
TIMES = (None, None, None, datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 7, 2, tzinfo=UTC))
FILES = ("raw/a", "raw/b")


@pytest.fixture
def lake(stack: Stack) -> Iterator[Lake]:
    lake = open_lake(stack.tenant("newest"))
    yield lake
    lake.close()


def test_the_newest_row_of_each_key_whatever_comes_and_goes(lake: Lake) -> None:
    defined, dice, numbers = definitions(), random.Random(3), count(1)
    epoch = start_term(lake, defined)
    runs: list[ModelRun] = []
    transforms = Transforms(
        defined.models, defined.streams, max_delay_s=0, rebuild_share=1.0, observe=runs.extend
    )
    transforms.load_behind(lake)
    moves: Counter[str] = Counter()
    for _ in range(examples(25)):
        with lake.transaction("orders") as transaction:
            if dice.random() < 0.6:
                key, moment = dice.randrange(KEYS), dice.choice(TIMES)
                moves["go"] += transaction.change(
                    f"DELETE FROM {TABLE} WHERE id = ? AND _airbyte_extracted_at IS NOT DISTINCT FROM ?",
                    (key, moment),
                )
            rows = [
                (
                    f"{dice.randrange(9)}",
                    dice.choice(TIMES),
                    dice.randrange(KEYS),
                    next(numbers),
                    dice.choice(FILES),
                )
                for _ in range(dice.choice((0, 1, 2, 5, 8)))
            ]
            if dice.random() < 0.7:
                moves["refund"] += transaction.change(
                    f"INSERT INTO {REFUNDS_TABLE} (_airbyte_raw_id, _airbyte_extracted_at, id, order_id, _source_file)"
                    " VALUES (?, now(), ?, ?, 'raw/r')",
                    (f"r{dice.randrange(9)}", dice.randrange(KEYS), dice.randrange(KEYS)),
                )
            if rows:
                moves["come"] += transaction.change(
                    f"INSERT INTO {TABLE} (_airbyte_raw_id, _airbyte_extracted_at, id, total_line_items_price,"
                    f" _source_file) VALUES {', '.join(['(?, ?, ?, ?, ?)'] * len(rows))}",
                    [value for row in rows for value in row],
                )
        transforms.changed([ORDERS, REFUNDS])
        transforms.run(lake, epoch)
        assert_models(lake, below(defined.models, [TABLE, REFUNDS_TABLE]))
    assert min(moves["go"], moves["come"], moves["refund"]) > 0
    assert sum(run.how == "incremental" for run in runs) > sum(run.how == "rebuild" for run in runs)
