"""The writer's thread between its transactions: who hears of what. Its transactions are made up."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import pytest

from feeders.epoch import Epoch
from feeders.errors import LakeError, LakeFenced, StatementFailed
from feeders.lake import Lake
from feeders.landings import Landing
from feeders.streams import Partition, Stream, StreamId
from feeders.work import Applied, ClaimLost, Outcome, Removal, Work
from feeders.writer import BatchLimits, Writer

STREAM = Stream(
    id=StreamId(source="shop", stream="orders"),
    table="stg_shop__orders",
    landing=("raw/shop/orders",),
    columns=(),
    on_new_column="rescue",
    on_delete="remove",
)


def removal(key: str) -> Removal:
    partition = Partition(year=2026, month="01", day="02")
    return Removal(stream=STREAM, partition=partition, bucket="landing", key=key, found_by="sweep")


class NoLake:
    """Stands for an open lake."""

    def close(self) -> None:
        pass


def open_lake() -> Lake:
    return cast("Lake", NoLake())


class OnlyAlone(Writer):
    """No two items go together; `applied` hears of each one that went."""

    applied: Callable[[], None] = staticmethod(lambda: None)

    def _transact(self, works: list[Work]) -> tuple[Applied, ...]:
        if len(works) > 1:
            raise StatementFailed("ConversionException", "one of these")
        self.applied()
        return (Applied(outcome=Outcome.REMOVED),)


def test_a_claim_that_ends_while_other_halves_of_its_batch_commit_is_not_committed() -> None:
    writer = OnlyAlone(open_lake, epoch=Epoch(1), limits=BatchLimits())
    claims = {"a": True, "b": True}
    writer.applied = lambda: claims.update(b=False)
    first, second = (writer.submit(removal(key), is_claimed=lambda key=key: claims[key]) for key in claims)
    writer.start()
    assert first.result(10).applied.outcome is Outcome.REMOVED
    with pytest.raises(ClaimLost):
        second.result(10)
    assert writer.close(10)


class Recorded(Writer):
    """Notes the keys of each batch."""

    batches: list[list[str]]

    def _transact(self, works: list[Work]) -> tuple[Applied, ...]:
        self.batches.append([work.key for work in works if isinstance(work, Removal)])
        return tuple(Applied(outcome=Outcome.DUPLICATE) for _ in works)


def test_a_stream_with_much_work_delays_a_key_of_another_by_one_batch() -> None:
    writer = Recorded(open_lake, epoch=Epoch(1), limits=BatchLimits(files=3, linger_s=0))
    writer.batches = []
    other = replace(STREAM, id=StreamId(source="shop", stream="customers"))
    works = [removal(f"{number}") for number in range(9)]
    futures = [writer.submit(work) for work in (*works, replace(works[0], stream=other, key="new"))]
    writer.start()
    for future in futures:
        future.result(10)
    assert writer.close(10)
    assert writer.batches == [["0", "new", "1"], ["2", "3", "4"], ["5", "6", "7"], ["8"]]


def test_items_that_go_alone_do_not_cut_the_batches_of_another_stream() -> None:
    writer = Recorded(open_lake, epoch=Epoch(1), limits=BatchLimits(linger_s=0))
    writer.batches = []
    other = replace(STREAM, id=StreamId(source="shop", stream="customers"))
    futures = [writer.submit(removal(f"y{number}")) for number in range(12)]
    futures += [writer.submit(replace(removal(f"x{n}"), stream=other), isolated=n < 4) for n in range(6)]
    writer.start()
    for future in futures:
        future.result(10)
    assert writer.close(10)
    # What is behind them in their own stream is not taken before them.
    ys = [f"y{number}" for number in range(12)]
    assert writer.batches == [ys, ["x0"], ["x1"], ["x2"], ["x3"], ["x4", "x5"]]


def test_what_goes_alone_is_next_also_when_the_batch_was_full() -> None:
    writer = Recorded(open_lake, epoch=Epoch(1), limits=BatchLimits(files=3, linger_s=0))
    writer.batches = []
    other = replace(STREAM, id=StreamId(source="shop", stream="customers"))
    futures = [writer.submit(removal(key)) for key in ("y0", "y1", "y1", "y2", "y3", "y4")]
    futures.append(writer.submit(replace(removal("x"), stream=other), isolated=True))
    asked = writer.call(lambda _: list(writer.batches))
    writer.start()
    for future in futures:
        future.result(10)
    assert writer.close(10)
    # A key twice ends a batch.
    assert writer.batches == [["y0", "y1"], ["x"], ["y1", "y2", "y3"], ["y4"]]
    assert asked.result(10) == [["y0", "y1"], ["x"]], "a call waits for one batch, and for what is before it"


class Fenced:
    """A follow-up that finds another process writing, once it is due."""

    def __init__(self) -> None:
        self.is_due = False

    def changed(self, streams: Iterable[StreamId], landings: Iterable[Landing] = ()) -> None:
        pass

    def load_behind(self, lake: Lake) -> None:
        pass

    def due_in(self, *, idle: bool) -> float | None:
        return 0.0 if self.is_due else None

    def run(self, lake: Lake, epoch: Epoch) -> None:
        raise LakeFenced("another process writes now")

    def not_run(self, error: LakeError) -> None:
        pass


def test_an_item_that_waits_for_the_next_commit_hears_that_the_term_has_ended() -> None:
    follow_up = Fenced()
    limits = BatchLimits(min_interval_s=3600)
    writer = OnlyAlone(open_lake, epoch=Epoch(1), limits=limits, follow_up=follow_up)
    writer.start()
    writer.submit(removal("a")).result(10)
    follow_up.is_due = True
    with pytest.raises(LakeFenced):
        writer.submit(removal("b")).result(10)
    with pytest.raises(LakeFenced):
        writer.ended.result(10)


def test_a_call_that_broke_duckdb_leaves_no_broken_one_for_the_next() -> None:
    opened: list[Lake] = []

    def open_another() -> Lake:
        opened.append(open_lake())
        return opened[-1]

    def break_it(lake: Lake) -> None:
        raise StatementFailed("FatalException", "the database has been invalidated")

    writer = OnlyAlone(open_another, epoch=Epoch(1), limits=BatchLimits())
    writer.start()
    with pytest.raises(StatementFailed):
        writer.call(break_it).result(10)
    assert writer.call(lambda lake: lake).result(10) is opened[1]
    assert writer.close(10)
