"""How should staging's rows lie: as they come, sorted by what models look up or by source file, or parted by day?

The same files are committed to a lake of each layout, commit by commit in turn, so that the machine's noise hits all;
the lakes are maintained now and then, and looked at in turn too. The ratios to the present layout are the figures.
"""

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from feeders.health import TableHealth
from feeders.models import Model
from feeders.streams import Stream, StreamId
from feeders.work import Load
from tests.benchmarks.figures import ratio, say, say_table, scaled, shown
from tests.benchmarks.layouts import DIGEST, LAYOUTS, TABLE, Lane, in_turn, lookup_of
from tests.benchmarks.order_history import NEW_SHARE, OrderHistory
from tests.lakes import Definitions, definitions, load_of

pytestmark = pytest.mark.bench
ORDERS = StreamId(source="shopify", stream="orders")
MODEL = "int_shopify__orders"
ROWS = 1_000_000
DAYS = 100
"""A commit a day."""
FILES_A_DAY = 4
MAINTAINED_EVERY = 48
"""Days; a merge takes 32 files, and none that rows were deleted from."""
LOOKS = 10
REBUILDS = 3
DELETES = 10
KEYS = 100


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one layout costs.

    Attributes:
        layout: its name.
        commit_ms: a commit, the median.
        maintain_s: all maintenance.
        maintain_mib: bytes that it wrote.
        maintain_steps: the transactions that it took.
        files: the table's data files in the end, before anything was deleted by hand.
        mib: their size.
        recent_ms: the model's SELECT for the keys of a file that came lately.
        random_ms: the same for KEYS keys of any age.
        rebuild_ms: the model made anew.
        count_ms: count(*).
        delete_ms: the DELETE of one source file's rows.
    """

    layout: str
    commit_ms: float
    maintain_s: float
    maintain_mib: float
    maintain_steps: int
    files: int
    mib: float
    recent_ms: float
    random_ms: float
    rebuild_ms: float
    count_ms: float
    delete_ms: float


@pytest.mark.timeout(3600)
def test_layouts(stack: Stack, tmp_path: Path, bench_scale: float) -> None:
    defined = definitions()
    stream, model = stream_of(defined), model_of(defined)
    days = scaled(DAYS, bench_scale, least=MAINTAINED_EVERY)
    rows = scaled(ROWS, bench_scale) // (days * FILES_A_DAY)
    history = OrderHistory(stream, seed=1, orders_a_day=NEW_SHARE * rows * FILES_A_DAY)
    lanes = [Lane(layout, new_tenant(stack), defined, tmp_path) for layout in LAYOUTS]
    try:
        for day in range(days):
            # A key is in a batch once.
            files = {file.key: file for file in (history.land(day, rows) for _ in range(FILES_A_DAY))}
            commit_to(lanes, [load_of(file, defined, folder=tmp_path) for file in files.values()], day)
            if not (day + 1) % MAINTAINED_EVERY or day + 1 == days:
                for lane in in_turn(lanes, day):
                    lane.maintain()
        healths = [lane.health() for lane in lanes]
        look_at(lanes, history, model)
        assert_equal(lanes)
        delete_some(lanes, history, stream)
        assert_equal(lanes)
    finally:
        for lane in lanes:
            lane.lake.close()
    say_figures([figure_of(lane, health) for lane, health in zip(lanes, healths, strict=True)])


def commit_to(lanes: Sequence[Lane], loads: Sequence[Load], turn: int) -> None:
    """One commit, in turn."""
    for lane in in_turn(lanes, turn):
        lane.commit(loads)
    for load in loads:
        load.plan.path.unlink()


def look_at(lanes: Sequence[Lane], history: OrderHistory, model: Model) -> None:
    """Queries, in turn."""
    dice, query = random.Random(5), lookup_of(model)
    for turn in range(LOOKS):
        keys = {"random": dice.sample(history.orders.ids, KEYS), "recent": history.recent[-1 - turn]}
        for what, these in keys.items():
            assert len({lane.look_up(what, query, these) for lane in in_turn(lanes, turn)}) == 1
        for lane in in_turn(lanes, turn):
            lane.count()
    for turn in range(REBUILDS):
        for lane in in_turn(lanes, turn):
            lane.rebuild(model)


def delete_some(lanes: Sequence[Lane], history: OrderHistory, stream: Stream) -> None:
    """Rows of source files go, in turn: of the last ones and of any."""
    late, early = history.keys[-DELETES // 2 :], history.keys[: -DELETES // 2]
    for turn, key in enumerate([*late, *random.Random(6).sample(early, DELETES // 2)]):
        for lane in in_turn(lanes, turn):
            lane.delete(stream, key)


def assert_equal(lanes: Sequence[Lane]) -> None:
    """All lakes hold the same rows, whatever their order; and what their models were made of is the same."""
    for table in (TABLE, f"main.{MODEL}"):
        found = {lane.layout.name: lane.lake.query(DIGEST.format(f"FROM {table}")) for lane in lanes}
        assert len({str(rows) for rows in found.values()}) == 1, found


def figure_of(lane: Lane, health: TableHealth) -> Figure:
    """The medians."""

    def median_ms(what: str) -> float:
        return round(1000 * statistics.median(lane.seconds[what]), 1)

    return Figure(
        layout=lane.layout.name,
        commit_ms=median_ms("commit"),
        maintain_s=round(sum(lane.seconds["maintain"]), 1),
        maintain_mib=round(lane.bytes_written / 2**20, 1),
        maintain_steps=lane.steps,
        files=health.files,
        mib=round(health.bytes / 2**20, 1),
        recent_ms=median_ms("recent"),
        random_ms=median_ms("random"),
        rebuild_ms=median_ms("rebuild"),
        count_ms=median_ms("count"),
        delete_ms=median_ms("delete"),
    )


def say_figures(figures: Sequence[Figure]) -> None:
    """Two lines a layout: what was measured, and the ratio to the present one."""
    heads = (
        "",
        "commit, ms",
        "maintenance, s",
        "it wrote, MiB",
        "in steps",
        "files",
        "MiB",
        "keys of a late file, ms",
        f"{KEYS} keys of any age, ms",
        "rebuild, ms",
        "count(*), ms",
        "delete of a file, ms",
    )
    present = values_of(figures[0])
    rows: list[Sequence[str]] = []
    for figure in figures:
        say(json.dumps(asdict(figure)))
        values = values_of(figure)
        rows.append(
            (figure.layout, *(shown(value, digits=0 if isinstance(value, int) else 1) for value in values))
        )
        if figure is not figures[0]:
            ratios = (ratio(value, other) for value, other in zip(values, present, strict=True))
            rows.append(("… ratio", *(shown(value, digits=2) for value in ratios)))
    say_table(heads, rows)


def values_of(figure: Figure) -> tuple[float, ...]:
    """All but the name."""
    return tuple(value for name, value in asdict(figure).items() if name != "layout")


def stream_of(defined: Definitions) -> Stream:
    """The stream of orders."""
    stream = defined.streams.get(ORDERS)
    assert stream is not None
    return stream


def model_of(defined: Definitions) -> Model:
    """The model of orders."""
    return next(model for model in defined.models if model.name == MODEL)


def new_tenant(stack: Stack) -> Tenant:
    """A lake that no other test knows."""
    return stack.tenant(f"t{uuid4().hex[:12]}")
