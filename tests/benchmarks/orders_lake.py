"""A lake of orders whose models follow 1,000 changed keys: by the engine, by hand, and by a rebuild."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from consumer.embedded.stack import Stack
from feeders.epoch import Epoch
from feeders.increment import ModelRun
from feeders.lake import Lake
from feeders.model_cursors import write_cursors
from feeders.models import Model, below
from feeders.rebuild_by_hand import rebuild_now
from feeders.streams import StreamId
from feeders.transform import Transforms, newest_snapshot
from tests.benchmarks.figures import say, say_table, shown
from tests.lakes import Definitions, definitions, lake_config, start_term

CHANGED_KEYS = 1_000
ROUNDS = 5
FILES = 20
ORDERS = StreamId(source="shopify", stream="orders")
TABLE = "staging.stg_shopify__orders"
BY_HAND = ("int_shopify__orders", "fct_sales")
_INSERT = (
    f"INSERT INTO {TABLE} (_airbyte_raw_id, _airbyte_extracted_at, id, created_at, financial_status,"
    " total_line_items_price, total_tax, _source_file, year, month, day)"
    " SELECT uuid()::VARCHAR, now(), id, now(), 'paid', 10 + id % 90, random(), ?, 2026, '07', '01' FROM"
)


@dataclass(kw_only=True)
class OrdersLake:
    """A lake with so many orders, one version each, in files in the order of their ids."""

    lake: Lake
    defined: Definitions
    epoch: Epoch
    rows: int
    runs: list[ModelRun] = field(default_factory=list[ModelRun])
    commits: int = 0

    def __post_init__(self) -> None:
        self.transforms = Transforms(
            self.defined.models, self.defined.streams, max_delay_s=0.0, observe=self.runs.extend
        )
        self.models: Sequence[Model] = below(self.defined.models, [TABLE])
        for part in range(FILES):
            first, last = part * self.rows // FILES, (part + 1) * self.rows // FILES
            self._commit("range(?, ?) AS r(id)", (first, last))
        self.transforms.load_behind(self.lake)
        self.transforms.run(self.lake, self.epoch)
        self.runs.clear()

    def change(self) -> str:
        """New versions of random orders; returns their file."""
        return self._commit(
            "(SELECT DISTINCT (random() * ?)::BIGINT AS id FROM range(?))", (self.rows - 1, CHANGED_KEYS)
        )

    def by_engine(self) -> float:
        """Seconds of the engine's run."""
        self.change()
        self.transforms.changed([ORDERS])
        return timed(lambda: self.transforms.run(self.lake, self.epoch))

    def by_hand(self) -> float:
        """Seconds of the same statements by hand."""
        file = self.change()
        wanted = [model for model in self.models if model.name in BY_HAND]

        def run() -> None:
            with self.lake.transaction("by hand") as transaction:
                transaction.query(
                    "CREATE OR REPLACE TEMP TABLE keys AS"
                    f" SELECT DISTINCT id AS key FROM {TABLE} WHERE _source_file = ?",
                    (file,),
                )
                for model in wanted:
                    affected = f"WHERE {model.key} IN (SELECT key FROM keys)"
                    transaction.change(f"DELETE FROM {model.table} {affected}")
                    transaction.change(
                        f"INSERT INTO {model.table} SELECT * FROM ({model.restricted_sql}\n) {affected}"
                    )
                write_cursors(transaction, self.models, snapshot=newest_snapshot(transaction) + 1)

        return timed(run)

    def by_rebuild(self) -> float:
        """Seconds of a rebuild."""
        self.change()
        return timed(lambda: rebuild_now(self.lake, self.models))

    def _commit(self, source: str, parameters: tuple[object, ...]) -> str:
        self.commits += 1
        file = f"raw/shopify/orders/{self.commits}.parquet"
        with self.lake.transaction("orders") as transaction:
            transaction.change(f"{_INSERT} {source}", (file, *parameters))
        return file


def timed(run: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@dataclass(frozen=True, kw_only=True)
class Times:
    """Medians of so many staging rows, in seconds."""

    rows: int
    engine: float
    hand: float
    rebuild: float


def measure(stack: Stack, name: str, *, rows: int, folder: Path) -> Times:
    """Engine and hand in turn, each after a commit of its own, and a rebuild at the end."""
    defined = definitions()
    lake = Lake(lake_config(stack.tenant(name), temp_directory=folder))
    try:
        orders = OrdersLake(lake=lake, defined=defined, epoch=start_term(lake, defined), rows=rows)
        orders.by_engine()
        orders.by_hand()
        orders.runs.clear()
        engine, hand = zip(*((orders.by_engine(), orders.by_hand()) for _ in range(ROUNDS)), strict=True)
        assert {run.how for run in orders.runs} == {"incremental"}
        rebuild = orders.by_rebuild()
    finally:
        lake.close()
    times = Times(rows=rows, engine=statistics.median(engine), hand=statistics.median(hand), rebuild=rebuild)
    by_model: defaultdict[str, list[float]] = defaultdict(list)
    for run in orders.runs:
        by_model[run.model].append(run.seconds)
    models = {name: round(1000 * statistics.median(each), 1) for name, each in by_model.items()}
    facts = {what: round(1000 * getattr(times, what), 1) for what in ("engine", "hand", "rebuild")}
    say(json.dumps({"bench": "transform", "rows": rows, "ms": facts, "model_ms": models}))
    return times


def say_times(measured: Sequence[Times]) -> None:
    """The table, and how much longer the last takes than the first."""
    say_table(
        [
            "staging rows",
            "engine, ms",
            "by hand, ms",
            "rebuild, ms",
            "engine to hand (aim 1.3)",
            "to rebuild",
        ],
        [
            [
                f"{each.rows:,}",
                *(shown(1000 * seconds) for seconds in (each.engine, each.hand, each.rebuild)),
                shown(each.engine / each.hand, digits=2),
                shown(each.engine / each.rebuild, digits=2),
            ]
            for each in measured
        ],
    )
    growth = measured[-1].engine / measured[0].engine
    say(json.dumps({"bench": "transform", "rows": measured[-1].rows, "growth": round(growth, 2)}))
