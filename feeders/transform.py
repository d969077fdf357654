"""Brings the models up to date after commits: each changed model, and all below it, in one transaction.

A model is rebuilt as a whole: DELETE and INSERT into the same table, never CREATE OR REPLACE, which cuts the
table's change feed silently. A model that fails holds back itself and its descendants; the others commit, and it
is tried again with backoff.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from feeders import fault
from feeders.epoch import Epoch, require_epoch
from feeders.lake import Lake, LakeConflict, LakeError, Row, StatementFailed, Transaction
from feeders.models import Model, below
from feeders.streams import StreamId, StreamTable
from feeders.types import quote_identifier

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
MAX_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """One model's part of a run: how long it took, the rows it has now, or the error that holds it back."""

    model: str
    seconds: float
    rows: int
    error: str | None = None


class ModelFailed(Exception):
    """A model's statements failed; the transaction is lost, the other models are tried without it."""

    def __init__(self, model: Model, error: StatementFailed) -> None:
        super().__init__(f"{model.name}: {error}")
        self.model = model
        self.error = error


class Transforms:
    """Knows which models are behind, and rebuilds them. Used on the writer's thread only."""

    def __init__(
        self,
        models: Sequence[Model],
        streams: StreamTable,
        *,
        max_delay_s: float,
        observe: Callable[[Sequence[ModelRun]], None] = lambda _: None,
    ) -> None:
        self._models = tuple(models)
        self._tables = {stream.id: stream.qualified_table for stream in streams}
        self._max_delay_s = max_delay_s
        self._observe = observe
        self._behind: set[str] = set()
        self._behind_since = 0.0
        self._failing: dict[str, float] = {}
        self._retry_at = 0.0

    def changed(self, streams: Iterable[StreamId]) -> None:
        """Notes that the staging tables of these streams changed."""
        if not self._behind - self._failing.keys():
            self._behind_since = time.monotonic()
        self._behind |= {
            model.name for model in below(self._models, [self._tables[stream] for stream in streams])
        }

    def due_in(self, *, idle: bool) -> float | None:
        """Seconds until `run` is due: at once when no work waits, else within the longest delay; None if never."""
        if self._behind - self._failing.keys():
            return 0.0 if idle else max(0.0, self._behind_since + self._max_delay_s - time.monotonic())
        if self._behind:
            return max(0.0, self._retry_at - time.monotonic())
        return None

    def run(self, lake: Lake, epoch: Epoch) -> None:
        """Rebuilds all models that are behind.

        Raises:
            LakeError: nothing was committed; the models stay behind and are due again.
        """
        retry = time.monotonic() >= self._retry_at
        wanted = [
            m for m in self._models if m.name in self._behind and (retry or m.name not in self._failing)
        ]
        failed: dict[str, StatementFailed] = {}
        while True:
            held_back = self._held_back(failed)
            try:
                runs = self._rebuild([m for m in wanted if m.name not in held_back], failed, lake, epoch)
                break
            except ModelFailed as error:
                failed[error.model.name] = error.error
        self._settle(wanted, failed)
        self._observe(runs)

    def not_run(self, error: LakeError) -> None:
        """Tells that a run was lost to an error of the lake; the models stay behind."""
        self._observe(
            [ModelRun(model=model.name, seconds=0.0, rows=0, error=str(error)) for model in self._waiting]
        )

    @property
    def _waiting(self) -> list[Model]:
        return [model for model in self._models if model.name in self._behind]

    def load_behind(self, lake: Lake) -> None:
        """Finds out at the start of a term which models are behind their inputs, or were changed, or never ran."""
        moved = {
            StreamId(source=source, stream=stream): snapshot
            for source, stream, snapshot in lake.query(
                "SELECT source, stream, snapshot_id FROM meta.feeder_cursors"
            )
        }
        done: dict[str, tuple[int, str, bool]] = {
            model: (snapshot, model_hash, failing)
            for model, snapshot, model_hash, failing in lake.query(
                "SELECT model, min(snapshot_id), min(model_hash), bool_or(error IS NOT NULL)"
                " FROM meta.transform_cursors GROUP BY model"
            )
        }
        streams = {table: stream for stream, table in self._tables.items()}
        for model in self._models:
            snapshot, model_hash, failing = done.get(model.name, (None, None, True))
            newest = max(
                (moved.get(streams[i.table], 0) for i in model.inputs if i.table in streams), default=0
            )
            if failing or snapshot is None or model_hash != model.sql_hash or newest > snapshot:
                self._behind |= {model.name, *(each.name for each in below(self._models, [model.table]))}
        self._behind_since = time.monotonic()

    def _held_back(self, failed: Iterable[str]) -> set[str]:
        tables = [model.table for model in self._models if model.name in set(failed)]
        return {*failed, *(model.name for model in below(self._models, tables))}

    def _settle(self, wanted: Iterable[Model], failed: Iterable[str]) -> None:
        held_back = self._held_back(failed)
        tried = {model.name for model in wanted}
        self._behind -= tried - held_back
        self._behind |= held_back
        was_failing, self._failing = self._failing, {n: d for n, d in self._failing.items() if n not in tried}
        for name in held_back:
            delay_s = was_failing.get(name, FIRST_RETRY_S / 2)
            self._failing[name] = min(LONGEST_RETRY_S, 2 * delay_s if name in tried else delay_s)
        if held_back or not self._failing:
            self._retry_at = time.monotonic() + min(self._failing.values(), default=0.0)

    def _rebuild(
        self, models: Sequence[Model], failed: dict[str, StatementFailed], lake: Lake, epoch: Epoch
    ) -> list[ModelRun]:
        runs = [ModelRun(model=name, seconds=0.0, rows=0, error=str(error)) for name, error in failed.items()]
        with lake.transaction("transforms") as transaction:
            require_epoch(transaction, epoch)
            snapshot = transaction.query("SELECT id FROM lakehouse.current_snapshot()")[0][0]
            fault.point("transforming")
            for model in models:
                started = time.monotonic()
                try:
                    rows = rebuild(transaction, model)
                except StatementFailed as error:
                    raise ModelFailed(model, error) from error
                runs.append(ModelRun(model=model.name, seconds=time.monotonic() - started, rows=rows))
            write_cursors(transaction, models, snapshot=snapshot)
            for model in self._models:
                if model.name in failed:
                    write_error(transaction, model, failed[model.name])
            fault.point("transformed")
        return runs


def rebuild_now(lake: Lake, models: Sequence[Model]) -> list[ModelRun]:
    """Rebuilds these models in one transaction, by hand: it conflicts with a writer's run, and then is tried again.

    Raises:
        StatementFailed: a model failed; nothing was changed.
        LakeConflict: the writer was quicker, MAX_TRIES times in a row.
    """
    for attempt in range(1, MAX_TRIES + 1):
        runs: list[ModelRun] = []
        try:
            with lake.transaction("rebuild by hand") as transaction:
                snapshot = transaction.query("SELECT id FROM lakehouse.current_snapshot()")[0][0]
                for model in models:
                    started = time.monotonic()
                    rows = rebuild(transaction, model)
                    runs.append(ModelRun(model=model.name, seconds=time.monotonic() - started, rows=rows))
                write_cursors(transaction, models, snapshot=snapshot)
        except LakeConflict:
            if attempt == MAX_TRIES:
                raise
        else:
            return runs
    raise AssertionError("unreachable")


def rebuild(transaction: Transaction, model: Model) -> int:
    """Makes a model's table equal to its SELECT; returns how many rows it has. Readers see it at the commit."""
    wanted = columns_of(transaction.query(f"DESCRIBE {model.sql}\n"))
    found = columns_of(
        transaction.query(
            "SELECT column_name, data_type FROM duckdb_columns()"
            " WHERE database_name = 'lakehouse' AND schema_name = 'main' AND table_name = ? ORDER BY column_index",
            (model.name,),
        )
    )
    table = quoted(model)
    if found and found != wanted:
        transaction.query(f"DROP TABLE {table}")
    if found != wanted:
        # OR REPLACE is not used: it would cut the change feed of a table that stays.
        columns = ", ".join(f"{quote_identifier(name)} {kind}" for name, kind in wanted)
        transaction.query(f"CREATE TABLE {table} ({columns})")
    else:
        transaction.change(f"DELETE FROM {table}")
    return transaction.change(f"INSERT INTO {table} {model.sql}\n")


def columns_of(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """The (name, type) pairs of a DESCRIBE."""
    return tuple((row[0], row[1]) for row in rows)


def quoted(model: Model) -> str:
    """The model's table, quoted."""
    return f"main.{quote_identifier(model.name)}"


def write_cursors(transaction: Transaction, models: Sequence[Model], *, snapshot: int) -> None:
    """Notes up to which snapshot each input is in each of these models."""
    if not models:
        return
    transaction.change(
        "DELETE FROM meta.transform_cursors WHERE model IN (SELECT unnest(?))", ([m.name for m in models],)
    )
    pairs = [(model, each.table) for model in models for each in model.inputs]
    transaction.change(
        "INSERT INTO meta.transform_cursors (model, input, snapshot_id, model_hash, updated_at, error, error_since)"
        " SELECT unnest(?), unnest(?), ?, unnest(?), now(), NULL, NULL",
        ([m.name for m, _ in pairs], [table for _, table in pairs], snapshot, [m.sql_hash for m, _ in pairs]),
    )


def write_error(transaction: Transaction, model: Model, error: StatementFailed) -> None:
    """Notes why a model is held back; since when is kept from the first failure on.

    One DELETE and one INSERT: an UPDATE of rows that this transaction inserted makes DuckLake remove their file
    at once, which the loader must not.
    """
    known: dict[str, tuple[int | None, str | None, object, object]] = {
        name: (snapshot, model_hash, updated_at, since)
        for name, snapshot, model_hash, updated_at, since in transaction.query(
            "SELECT input, snapshot_id, model_hash, updated_at::VARCHAR, error_since::VARCHAR"
            " FROM meta.transform_cursors WHERE model = ?",
            (model.name,),
        )
    }
    never = (None, model.sql_hash, None, None)
    rows = [(table, *known.get(table, never)) for table in (each.table for each in model.inputs)]
    transaction.change("DELETE FROM meta.transform_cursors WHERE model = ?", (model.name,))
    transaction.change(
        "INSERT INTO meta.transform_cursors (model, input, snapshot_id, model_hash, updated_at, error, error_since)"
        " SELECT ?, unnest(?), unnest(?::BIGINT[]), unnest(?), coalesce(unnest(?::TIMESTAMPTZ[]), now()), ?,"
        " coalesce(unnest(?::TIMESTAMPTZ[]), now())",
        (
            model.name,
            [row[0] for row in rows],
            [row[1] for row in rows],
            [row[2] for row in rows],
            [row[3] for row in rows],
            str(error),
            [row[4] for row in rows],
        ),
    )
