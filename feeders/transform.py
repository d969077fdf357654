"""Brings the models up to date after commits: each changed model, and all below it, in one transaction.

Of a model only the rows of affected keys are made anew (feeders.increment). A model that fails holds back itself and
its descendants; the others commit, and it is tried again with backoff: then it takes what its inputs changed since
its own last run.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from feeders import fault
from feeders.epoch import Epoch, require_epoch
from feeders.increment import GraphRun, ModelRun, NeedsRebuild
from feeders.lake import Lake, LakeError, StatementFailed, Transaction
from feeders.landings import Landing, Landings
from feeders.model_cursors import read_cursors, write_cursors
from feeders.models import Model, below
from feeders.streams import StreamId, StreamTable

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What whoever follows the lake can rely on from now on.

    Attributes:
        streams: whose staging tables changed since they were last told of, or may have before this process began.
        staging_snapshot: what was committed of them up to here is in their models,
        model_snapshot: as they are in this snapshot,
        runs: of which these ran just now,
        held_back: and these did not, since they or one above them fail.
        landings: objects that were loaded by this process, and are in all models below only now.
    """

    streams: frozenset[StreamId]
    staging_snapshot: int
    model_snapshot: int
    runs: tuple[ModelRun, ...]
    held_back: frozenset[str]
    landings: tuple[Landing, ...] = ()


class ModelFailed(Exception):
    """A model's statements failed; the transaction is lost, the other models are tried without it."""

    def __init__(self, model: Model, error: StatementFailed) -> None:
        super().__init__(f"{model.name}: {error}")
        self.model = model
        self.error = error


class ModelsForgotten(Exception):
    """Models have lost their cursors: somebody asks for a rebuild. The transaction is lost, and the next has them."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


class Transforms:
    """Knows which models are behind, and rebuilds them. Used on the writer's thread only."""

    def __init__(
        self,
        models: Sequence[Model],
        streams: StreamTable,
        *,
        max_delay_s: float,
        rebuild_share: float = 0.3,
        rebuild_rows: int = 0,
        observe: Callable[[Sequence[ModelRun]], None] = lambda _: None,
        announce: Callable[[Followed], None] = lambda _: None,
    ) -> None:
        self._models = tuple(models)
        self._rebuild_share = rebuild_share
        self._rebuild_rows = rebuild_rows
        self._tables = {stream.id: stream.qualified_table for stream in streams}
        self._max_delay_s = max_delay_s
        self._observe = observe
        self._announce = announce
        self._moved: set[StreamId] = set()
        self._landings = Landings()
        self._below = {
            stream: frozenset(model.name for model in below(self._models, [table]))
            for stream, table in self._tables.items()
        }
        self._behind: set[str] = set()
        self._pending: set[tuple[str, str]] = set()
        self._behind_since = 0.0
        self._failing: dict[str, float] = {}
        self._retry_at = 0.0
        self.rebuilds = 0
        """How many models were rebuilt so far."""

    def changed(self, streams: Iterable[StreamId], landings: Iterable[Landing] = ()) -> None:
        """Notes that the staging tables of these streams changed, and which new objects did it."""
        self._landings.note(landings)
        if not self._is_due:
            self._behind_since = time.monotonic()
        moved = set(streams)
        self._moved |= moved
        tables = {self._tables[stream] for stream in moved}
        self._behind |= {model.name for model in below(self._models, tables)}
        self._pending |= {
            (model.name, each.table)
            for model in self._models
            for each in model.inputs
            if each.table in tables
        }

    def due_in(self, *, idle: bool) -> float | None:
        """Seconds until `run` is due: at once when no work waits, else within the longest delay; None if never."""
        if self._is_due:
            return 0.0 if idle else max(0.0, self._behind_since + self._max_delay_s - time.monotonic())
        if self._behind:
            return max(0.0, self._retry_at - time.monotonic())
        return None

    @property
    def _is_due(self) -> bool:
        return bool(self._behind - self._failing.keys()) or any(map(self._is_whole, self._moved))

    def _is_whole(self, stream: StreamId) -> bool:
        """Whether all models below a stream have all of it."""
        return not self._below[stream] & self._behind

    def is_current(self, model: str) -> bool:
        """Whether a model has all that was committed, as far as this process knows."""
        return model not in self._behind

    def run(self, lake: Lake, epoch: Epoch) -> None:
        """Brings all models up to date that are behind.

        Raises:
            LakeError: nothing was committed; the models stay behind and are due again.
        """
        retry = time.monotonic() >= self._retry_at
        if not (wanted := self._wanted(retry=retry)):
            rows = lake.query(
                "SELECT DISTINCT model FROM meta.transform_cursors WHERE snapshot_id IS NOT NULL"
            )
            self._remember(self._forgotten({name for (name,) in rows}))
            wanted = self._wanted(retry=retry)
        if not wanted:
            snapshot = newest_snapshot(lake)
            self._tell((), staging_snapshot=snapshot, model_snapshot=snapshot)
            return
        failed: dict[str, StatementFailed] = {}
        forced: dict[str, str] = {}
        while True:
            held_back = self._held_back(failed)
            try:
                tried = [m for m in wanted if m.name not in held_back]
                runs, snapshot = self._bring_up(tried, failed, forced, lake, epoch)
                break
            except NeedsRebuild as error:
                forced[error.model.name] = error.reason
            except ModelsForgotten as error:
                self._remember(error.names)
                wanted = self._wanted(retry=retry)
            except ModelFailed as error:
                failed[error.model.name] = error.error
                if error.error.invalidates_instance:
                    lake.close()
        self._settle(wanted, failed)
        self.rebuilds += sum(run.how == "rebuild" for run in runs)
        self._observe(runs)
        done = tuple(run for run in runs if run.error is None)
        self._tell(done, staging_snapshot=snapshot, model_snapshot=snapshot + 1)

    def _wanted(self, *, retry: bool) -> list[Model]:
        return [m for m in self._models if m.name in self._behind and (retry or m.name not in self._failing)]

    def _forgotten(self, known: Collection[str]) -> set[str]:
        """The models without a cursor that are not known to be behind (feeders.rebuild_by_hand)."""
        return {m.name for m in self._models if m.inputs} - set(known) - self._behind

    def _remember(self, names: set[str]) -> None:
        """They are behind, and what is below them is too: it may have been made from what they were."""
        tables = [model.table for model in self._models if model.name in names]
        self._behind |= names | {model.name for model in below(self._models, tables)}

    def _tell(self, runs: tuple[ModelRun, ...], *, staging_snapshot: int, model_snapshot: int) -> None:
        """Tells of the streams whose models ran, or have nothing to do."""
        done = {run.model for run in runs}
        streams = {s for s in self._moved if self._below[s] & done or self._is_whole(s)}
        whole = frozenset(filter(self._is_whole, streams))
        if streams:
            self._announce(
                Followed(
                    streams=frozenset(streams),
                    staging_snapshot=staging_snapshot,
                    model_snapshot=model_snapshot,
                    runs=runs,
                    held_back=frozenset(self._behind),
                    landings=self._landings.take(whole),
                )
            )
        self._moved -= whole

    def not_run(self, error: LakeError) -> None:
        """Tells that a run was lost to an error of the lake; the models stay behind."""
        self._observe([ModelRun(model=model.name, seconds=0.0, error=str(error)) for model in self._waiting])

    @property
    def _waiting(self) -> list[Model]:
        return [model for model in self._models if model.name in self._behind]

    def load_behind(self, lake: Lake) -> None:
        """Finds out at the start of a term which models are behind their inputs, or were changed, or never ran."""
        cursors = lake.query("SELECT source, stream, snapshot_id, files FROM meta.feeder_cursors")
        moved = {StreamId(source=row[0], stream=row[1]): int(row[2]) for row in cursors}
        # Whoever wrote before may have committed and then died before it told anybody.
        landed = {StreamId(source=row[0], stream=row[1]) for row in cursors if row[3]}
        self._moved |= landed & self._tables.keys()
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
                self._pending |= {(model.name, i.table) for i in model.inputs if i.table in streams}
        self._behind_since = time.monotonic()

    def _held_back(self, failed: Iterable[str]) -> set[str]:
        tables = [model.table for model in self._models if model.name in set(failed)]
        return {*failed, *(model.name for model in below(self._models, tables))}

    def _settle(self, wanted: Iterable[Model], failed: Iterable[str]) -> None:
        held_back = self._held_back(failed)
        tried = {model.name for model in wanted}
        done = tried - held_back
        self._behind -= done
        self._pending = {(model, table) for model, table in self._pending if model not in done}
        self._behind |= held_back
        was_failing, self._failing = self._failing, {n: d for n, d in self._failing.items() if n not in tried}
        for name in held_back:
            delay_s = was_failing.get(name, FIRST_RETRY_S / 2)
            self._failing[name] = min(LONGEST_RETRY_S, 2 * delay_s if name in tried else delay_s)
        if held_back or not self._failing:
            self._retry_at = time.monotonic() + min(self._failing.values(), default=0.0)

    def _bring_up(
        self,
        models: Sequence[Model],
        failed: Mapping[str, StatementFailed],
        forced: Mapping[str, str],
        lake: Lake,
        epoch: Epoch,
    ) -> tuple[list[ModelRun], int]:
        runs = [ModelRun(model=name, seconds=0.0, error=str(error)) for name, error in failed.items()]
        with lake.transaction("transforms") as transaction:
            require_epoch(transaction, epoch)
            run = self._graph_run(transaction, forced)
            if forgotten := self._forgotten(run.cursors.keys()):
                raise ModelsForgotten(forgotten)
            fault.point("transforming")
            for model in models:
                try:
                    runs.append(run.bring_up(model))
                except StatementFailed as error:
                    raise ModelFailed(model, error) from error
            run.clear()
            done = {model.name for model in models}
            write_cursors(
                transaction,
                models,
                snapshot=run.snapshot + 1,
                failed={m: failed[m.name] for m in self._models if m.name in failed},
                forgotten=[
                    m for m in self._models if m.name not in done and run.remade & {i.table for i in m.inputs}
                ],
                defined=self._models,
            )
            fault.point("transformed")
        return runs, run.snapshot

    def _graph_run(self, transaction: Transaction, forced: Mapping[str, str]) -> GraphRun:
        return GraphRun(
            transaction=transaction,
            cursors=read_cursors(transaction),
            snapshot=newest_snapshot(transaction),
            pending=self._pending,
            models={model.table: model for model in self._models},
            forced=forced,
            most_share=self._rebuild_share,
            small=self._small(transaction),
        )

    def _small(self, transaction: Transaction) -> str:
        """Why all changed models are rebuilt: a small lake is read whole in less time than its changes are found.

        Once it is no longer small it is not asked again.
        """
        if not self._rebuild_rows:
            return ""
        [(rows,)] = transaction.query("SELECT coalesce(sum(rows), 0) FROM meta.feeder_cursors")
        if int(rows) < self._rebuild_rows:
            return f"fewer than {self._rebuild_rows:,} rows were loaded so far"
        self._rebuild_rows = 0
        return ""


def newest_snapshot(lake: Transaction | Lake) -> int:
    """What is seen of all that is committed."""
    return int(lake.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])
