"""Drift at work: tells what drifted, and lets tables grow (`on_new_column: add`).

Which columns a table gets is decided in `feeders.growth`, and the writer adds them in `feeders.apply.grow_table`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import structlog

from consumer.metrics import Metrics
from feeders.apply import grow_table
from feeders.ddl import Path
from feeders.drift import Drift, DriftKind
from feeders.epoch import Epoch
from feeders.growth import NotAdded, plan_growth
from feeders.parquet_types import FileSchema
from feeders.schema import LoadPlan
from feeders.streams import Stream, StreamId, StreamTable
from feeders.writer import Writer

log = structlog.get_logger()

T = TypeVar("T", Drift, NotAdded)

MOST_TOLD = 1000
"""Of one stream and term. Whoever names columns anew in each file fills no log with it."""
MOST_IN_A_LINE = 20


class DriftReport:
    """Counts the files that drifted, and says what drifted when that changes. One event loop, one term.

    A stream that drifts does so in each of its files: a line for each would hide all others.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: defaultdict[StreamId, set[Drift | NotAdded]] = defaultdict(set)

    def loaded(self, stream: Stream, plan: LoadPlan) -> None:
        """Notes a file that was loaded by this plan; an exact one did not drift."""
        if plan.kind != "exact":
            self.drifted(stream, plan.kind, plan.drifts)

    def drifted(self, stream: Stream, kind: DriftKind, drifts: Sequence[Drift]) -> None:
        """Notes one file, and what of it drifted."""
        self._metrics.drift.labels(source=stream.id.source, stream=stream.id.stream, kind=kind).inc()
        if fresh := self._fresh(stream, drifts):
            log.warning("drift", stream=str(stream.id), kind=kind, **_shown([str(each) for each in fresh]))

    def not_added(self, stream: Stream, columns: Sequence[NotAdded]) -> None:
        """Notes what a file brought and its table does not get: it is rescued."""
        if fresh := self._fresh(stream, columns):
            shown = _shown([f"{each.path}: {each.why}" for each in fresh])
            log.warning("columns not added", stream=str(stream.id), **shown)

    def _fresh(self, stream: Stream, found: Sequence[T]) -> list[T]:
        """What was not told yet; empties for good when too much was told."""
        told = self._told[stream.id]
        if len(told) >= MOST_TOLD:
            return []
        fresh = [each for each in found if each not in told]
        told.update(fresh)
        if len(told) >= MOST_TOLD:
            log.warning("drift is only counted from here on", stream=str(stream.id), told=len(told))
        return fresh


def _shown(texts: Sequence[str]) -> dict[str, object]:
    left = len(texts) - MOST_IN_A_LINE
    return {"columns": list(texts[:MOST_IN_A_LINE]), "more": max(0, left)}


class Growing:
    """Lets the tables of a term's streams grow by what their files bring."""

    def __init__(
        self, *, streams: StreamTable, writer: Writer, epoch: Epoch, max_columns: int, report: DriftReport
    ) -> None:
        self._streams = streams
        self._writer = writer
        self._epoch = epoch
        self._max_columns = max_columns
        self._report = report
        self._locks: defaultdict[StreamId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._refused: dict[StreamId, frozenset[Path]] = {}

    def is_needed(self, stream: Stream, schema: FileSchema) -> bool:
        """Says whether the stream's table has to get columns before a file is planned. From any thread."""
        return stream.on_new_column == "add" and bool(
            plan_growth(
                schema,
                stream.columns,
                max_columns=self._max_columns,
                refused=self._refused.get(stream.id, frozenset()),
            ).added
        )

    async def grow(self, stream: Stream, schema: FileSchema, *, ask: bool = False) -> Stream:
        """Adds what the table lacks, and returns the stream with the columns that it has now.

        Files of a stream wait for each other here, and those of other streams for nobody: of a hundred files that
        bring the same column, one has it added. With `ask` the lake is asked in any case: something may have
        taken columns away, as a restored catalog does.

        Raises:
            LakeFenced, LakeUnavailable, LakeConflict, LakeMisconfigured: as of any other write.
        """
        async with self._locks[stream.id]:
            current = self._streams.get(stream.id) or stream
            if not ask and not self.is_needed(current, schema):
                return current
            refused = self._refused.get(stream.id, frozenset[Path]())
            grown = await asyncio.wrap_future(
                self._writer.call(
                    lambda lake: grow_table(
                        lake,
                        current,
                        schema,
                        epoch=self._epoch,
                        max_columns=self._max_columns,
                        refused=refused,
                    )
                )
            )
            self._refused[stream.id] = grown.refused
            if grown.growth.drifts:
                self._report.drifted(current, "add", grown.growth.drifts)
            self._report.not_added(current, grown.growth.not_added)
            return self._streams.take_columns(stream.id, grown.columns)
