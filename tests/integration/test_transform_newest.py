"""Rows of few orders and refunds that come and go: each way of deciding which of an order's rows is newest occurs.

Tried once against broken code, and failed each time: with equally new rows taken for newer ones, rows that went for
rows that stayed, older rows that came for newer ones, and of two rows without a time any one for the newest; and with
the orders that just came taken for all that a model below needs, though refunds of others came too.
"""

import random
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from consumer.embedded.stack import Stack
from feeders.increment import ModelRun
from feeders.lake import Lake
from feeders.models import Model, below, load_models
from feeders.project import find_project
from feeders.streams import StreamId
from feeders.transform import Transforms
from tests.benchmarks.orders_lake import ORDERS, TABLE
from tests.exact import assert_models
from tests.helpers import examples
from tests.lakes import definitions, open_lake, start_term

REFUNDS = StreamId(source="shopify", stream="order_refunds")
CUSTOMERS = StreamId(source="shopify", stream="customers")
REFUNDS_TABLE = "staging.stg_shopify__order_refunds"
KEYS = 12
TIMES = (None, None, None, datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 7, 2, tzinfo=UTC))
FILES = ("raw/a", "raw/b")


@pytest.fixture
def lake(stack: Stack) -> Iterator[Lake]:
    lake = open_lake(stack.tenant(f"newest-{uuid.uuid4().hex[:8]}"))
    yield lake
    lake.close()


class Follower:
    """Brings models up to date after each commit to orders or refunds, and holds them against their SELECTs."""

    def __init__(self, lake: Lake, models: Sequence[Model]) -> None:
        defined = definitions()
        self._lake, self._models = lake, models
        self._epoch = start_term(lake, defined)
        self.runs: list[ModelRun] = []
        self._transforms = Transforms(
            models, defined.streams, max_delay_s=0, rebuild_share=1.0, observe=self.runs.extend
        )
        self._transforms.load_behind(lake)

    def run(self, *streams: StreamId) -> None:
        self._transforms.changed(streams)
        self._transforms.run(self._lake, self._epoch)

    def follow(self, *streams: StreamId) -> None:
        self.run(*streams)
        assert_models(self._lake, below(self._models, [TABLE, REFUNDS_TABLE]))


def test_what_is_below_a_model_that_is_to_be_rebuilt_is_made_after_it(lake: Lake) -> None:
    follower = Follower(lake, definitions().models)
    lake.query(f"INSERT INTO {TABLE} (_airbyte_raw_id, id, total_line_items_price) VALUES ('a', 1, '5.00')")
    follower.follow(ORDERS)
    for commit, stream in {
        f"INSERT INTO {REFUNDS_TABLE} (_airbyte_raw_id, id, order_id) VALUES ('r', 1, 1)": REFUNDS,
        "INSERT INTO staging.stg_shopify__customers (_airbyte_raw_id, id) VALUES ('c', 1)": CUSTOMERS,
    }.items():
        for model in ("int_shopify__orders", "fct_sales"):
            lake.query(f"DELETE FROM main.{model}")
        lake.query("UPDATE meta.transform_cursors SET snapshot_id = NULL WHERE model = 'int_shopify__orders'")
        lake.query(commit)
        follower.follow(stream)
        assert lake.query("SELECT order_id FROM main.fct_sales") == [(1,)]


def test_a_model_below_reads_what_was_stored_of_a_type_that_is_stored_otherwise(
    lake: Lake, tmp_path: Path
) -> None:
    """An INTERVAL comes back in milliseconds."""
    shutil.copytree(find_project(None).ddl, tmp_path / "ddl")
    for path, sql in {
        "processed/shopify/int_shopify__took.sql": (
            f"-- key: id\n-- map: {TABLE}: id\nSELECT id, _airbyte_extracted_at, updated_at - created_at AS took\n"
            f"FROM {TABLE}\nQUALIFY row_number() OVER (PARTITION BY id ORDER BY _airbyte_extracted_at DESC) = 1"
        ),
        "enriched/sales/fct_took.sql": (
            "-- key: id\n-- map: main.int_shopify__took: id\n"
            "SELECT id, epoch_us(took) AS us FROM main.int_shopify__took"
        ),
    }.items():
        (tmp_path / "transforms" / path).parent.mkdir(parents=True)
        (tmp_path / "transforms" / path).write_text(sql)
    models = load_models(find_project(tmp_path))
    assert models[0].newest_by == "_airbyte_extracted_at"
    follower = Follower(lake, models)
    for number in range(2):
        lake.query(
            f"INSERT INTO {TABLE} (_airbyte_extracted_at, id, created_at, updated_at) SELECT now(), {number},"
            " TIMESTAMPTZ '2026-07-01', TIMESTAMPTZ '2026-07-01' + INTERVAL 1234567 MICROSECONDS"
        )
        follower.run(ORDERS)
    assert {run.how for run in follower.runs[-2:]} == {"incremental"}
    assert_models(lake, models[-1:])


def test_the_newest_row_of_each_key_whatever_comes_and_goes(lake: Lake) -> None:
    dice, numbers = random.Random(3), count(1)
    follower = Follower(lake, definitions().models)
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
        follower.follow(ORDERS, REFUNDS)
    assert min(moves["go"], moves["come"], moves["refund"]) > 0
    how = Counter(run.how for run in follower.runs)
    assert how["incremental"] > how["rebuild"]
