"""One model within a run: the rows of its affected keys made anew, or all of them.

Affected keys come from what changed in each input: of staging tables the change feed since the model's cursor, of
models what this transaction changed in them, handed on in memory, since the feed does not see the running
transaction. Rows that come out as they were are left alone, and affect nothing below.

The feed is read from the cursor's own snapshot on, which expiry keeps; that one holds only what the model's own run
wrote. Only the keys of the feed are used: it tells too much after a rewrite, and counts nothing
(tests/integration/test_foundation_change_feed.py).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from feeders.lake import Row, StatementFailed, Transaction
from feeders.model_cursors import ModelCursor
from feeders.models import Input, Model
from feeders.types import quote_identifier

MANY_KEYS = 1_000
"""Fewer keys never ask for a rebuild: what a statement costs by itself is more than either takes."""

How = Literal["incremental", "rebuild"]


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """One model's part of a run.

    Attributes:
        rows: that it wrote: of a rebuild all that it has now.
        keys: that were affected; 0 of a rebuild.
        reason: why it was rebuilt; empty if it was not.
        error: what holds it back; then nothing else is told.
    """

    model: str
    seconds: float
    rows: int = 0
    keys: int = 0
    how: How = "incremental"
    reason: str = ""
    error: str | None = None


class NeedsRebuild(Exception):
    """What changed for a model can't be read any more; the transaction is lost, and the next one rebuilds it."""

    def __init__(self, model: Model, reason: str) -> None:
        super().__init__(f"{model.name}: {reason}")
        self.model = model
        self.reason = reason


@dataclass(kw_only=True)
class GraphRun:
    """The models of one transaction, in dependency order.

    Attributes:
        snapshot: what the transaction sees of all that is committed.
        pending: (model, staging table) where the table may have changed since the model's cursor.
        forced: models that are rebuilt in any case, and why.
        most_share: of a model's rows; where more keys are affected, it is rebuilt.
        small: why every model of which an input changed is rebuilt; empty if the lake is large enough for less.
        remade: tables that were made anew: the feed does not tell what was in the ones before.
    """

    transaction: Transaction
    cursors: Mapping[str, ModelCursor]
    snapshot: int
    pending: set[tuple[str, str]]
    models: Mapping[str, Model]
    forced: Mapping[str, str]
    most_share: float
    small: str = ""
    remade: set[str] = field(default_factory=set[str])
    _flows: dict[str, str] = field(default_factory=dict[str, str])
    _rebuilt: set[str] = field(default_factory=set[str])
    _temporary: set[str] = field(default_factory=set[str])

    def bring_up(self, model: Model) -> ModelRun:
        """Makes one model equal to its SELECT; those above it come first.

        Raises:
            NeedsRebuild: an input's changes can't be read.
            StatementFailed: the model's SQL failed.
        """
        started = time.monotonic()
        reason = self._reason(model)
        keys = 0
        if not reason:
            keys = self._affected(model)
            if keys > MANY_KEYS and keys > self.most_share * self._count(model.table):
                reason = f"{keys} of its keys are affected"
            elif keys:
                reason = self._compute(model)
        if reason:
            rebuilt = rebuild(self.transaction, model)
            self._rebuilt.add(model.table)
            if rebuilt.made_anew:
                self.remade.add(model.table)
            return ModelRun(
                model=model.name,
                seconds=time.monotonic() - started,
                rows=rebuilt.rows,
                how="rebuild",
                reason=reason,
            )
        rows = self._apply(model) if keys else 0
        return ModelRun(model=model.name, seconds=time.monotonic() - started, rows=rows, keys=keys)

    def clear(self) -> None:
        """Drops the temporary tables: they would keep their memory until the next run."""
        for name in sorted(self._temporary):
            self.transaction.query(f"DROP TABLE temp.{name}")

    def _reason(self, model: Model) -> str:
        """Why a model has to be rebuilt; empty if it has not."""
        cursor = self.cursors.get(model.name)
        if (forced := self.forced.get(model.name)) is not None:
            return forced
        if cursor is None or set(cursor.inputs) != {each.table for each in model.inputs}:
            return "it never ran"
        if cursor.sql_hash != model.sql_hash:
            return "its file has changed"
        if rebuilt := [each.table for each in model.inputs if each.table in self._rebuilt]:
            return f"{rebuilt[0]} was rebuilt"
        whole = "it is only rebuilt" if model.rebuild_only else self.small
        if whole and any(self._sources(model, each, cursor) for each in model.inputs):
            return whole
        return ""

    def _affected(self, model: Model) -> int:
        """Makes the temporary table `keys` of the affected keys; returns how many there are."""
        cursor = self.cursors[model.name]
        parts: list[str] = []
        for each in model.inputs:
            for source in self._sources(model, each, cursor):
                changed = f"WITH changed AS (SELECT * FROM {source}) {each.keys_sql}\n"
                parts.append(f"SELECT key FROM ({changed}) AS affected(key)")
        if not parts:
            return 0
        union = " UNION ALL ".join(parts)
        try:
            return self._make("keys", f"SELECT DISTINCT key FROM ({union}) WHERE key IS NOT NULL")
        except StatementFailed as error:
            # An expired end of the span, or a table that was made anew; if it is the map, a rebuild still is right.
            raise NeedsRebuild(model, f"its changes can't be read: {error}") from error

    def _sources(self, model: Model, each: Input, cursor: ModelCursor) -> list[str]:
        """Where an input's changed rows are, before and after images alike."""
        sources: list[str] = []
        if (flow := self._flows.get(each.table)) is not None:
            sources.append(flow)
        since = cursor.inputs[each.table]
        above = self.models.get(each.table)
        if above is None:
            is_behind = (model.name, each.table) in self.pending
        else:
            made = self.cursors.get(above.name)
            is_behind = made is not None and since < made.made_in
        if is_behind and since < self.snapshot:
            schema, _, table = each.table.partition(".")
            sources.append(
                f"ducklake_table_changes('lakehouse', '{schema}', '{table}', {since}, {self.snapshot})"
            )
        return sources

    def _compute(self, model: Model) -> str:
        """Makes `old` and `new`, the rows of the affected keys; returns why that is not enough, if it is not."""
        key = quote_identifier(model.key)
        affected = f"WHERE {key} IN (SELECT key FROM keys)"
        try:
            self._make("old", f"SELECT * FROM {quoted(model)} {affected}")
        except StatementFailed as error:
            raise NeedsRebuild(model, f"its table can't be read: {error}") from error
        self._make("new", f"SELECT * FROM ({model.restricted_sql}\n) {affected}")
        if self._columns("temp.old") != self._columns("temp.new"):
            return "its columns have changed"
        return ""

    def _apply(self, model: Model) -> int:
        """Replaces those rows that are not as they were, and hands them on; returns how many were written."""
        flow = f"flow_{len(self._flows)}"
        # As EXCEPT ALL both ways would, in one pass. Which keys are in there counts, not how often a row is.
        differ = self._make(
            flow,
            "SELECT * EXCLUDE (_lotus_sign)"
            " FROM (SELECT 1 AS _lotus_sign, * FROM temp.new UNION ALL SELECT -1, * FROM temp.old)"
            " GROUP BY ALL HAVING sum(_lotus_sign) <> 0",
        )
        if not differ:
            return 0
        key = quote_identifier(model.key)
        differing = f"WHERE {key} IN (SELECT {key} FROM temp.{flow})"
        [(old, new)] = self.transaction.query(
            f"SELECT (SELECT count(*) FROM temp.old {differing}), (SELECT count(*) FROM temp.new {differing})"
        )
        self._flows[model.table] = f"temp.{flow}"
        if old:
            self.transaction.change(f"DELETE FROM {quoted(model)} {differing}")
        if new:
            self.transaction.change(f"INSERT INTO {quoted(model)} SELECT * FROM temp.new {differing}")
        return int(new)

    def _make(self, name: str, query: str) -> int:
        """Makes a temporary table; returns how many rows it has."""
        self._temporary.add(name)
        return self.transaction.change(f"CREATE OR REPLACE TEMP TABLE {name} AS {query}")

    def _count(self, table: str) -> int:
        return int(self.transaction.query(f"SELECT count(*) FROM {table}")[0][0])

    def _columns(self, table: str) -> tuple[tuple[str, str], ...]:
        return columns_of(self.transaction.query(f"DESCRIBE {table}"))


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """How many rows a rebuilt model has, and whether its table is another one than before."""

    rows: int
    made_anew: bool


def rebuild(transaction: Transaction, model: Model) -> Rebuilt:
    """Makes a model's table equal to its SELECT; readers see it at the commit."""
    wanted = columns_of(transaction.query(f"DESCRIBE {model.sql}\n"))
    found = columns_of(
        transaction.query(
            "SELECT column_name, data_type FROM duckdb_columns()"
            " WHERE database_name = 'lakehouse' AND schema_name = 'main' AND table_name = ? ORDER BY column_index",
            (model.name,),
        )
    )
    table = quoted(model)
    changes = alterations(found, wanted)
    if changes is None:
        if found:
            transaction.query(f"DROP TABLE {table}")
        # OR REPLACE is not used: it would cut the change feed of a table that stays.
        columns = ", ".join(f"{quote_identifier(name)} {kind}" for name, kind in wanted)
        transaction.query(f"CREATE TABLE {table} ({columns})")
    else:
        transaction.change(f"DELETE FROM {table}")
        for change in changes:
            transaction.query(f"ALTER TABLE {table} {change}")
    rows = transaction.change(f"INSERT INTO {table} {model.sql}\n")
    return Rebuilt(rows=rows, made_anew=changes is None)


def alterations(found: Sequence[tuple[str, str]], wanted: Sequence[tuple[str, str]]) -> list[str] | None:
    """What to ALTER so that the columns found become those wanted, in their order; None if that is not possible.

    Columns that go may go from anywhere, columns that come can only come at the end. A column of another type is
    neither.
    """
    kept = [column for column in found if column in wanted]
    come = [column for column in wanted if column not in found]
    gone = [name for name, kind in found if (name, kind) not in wanted]
    if not kept or [*kept, *come] != list(wanted) or {name for name, _ in come} & set(gone):
        return None
    return [
        *(f"DROP COLUMN {quote_identifier(name)}" for name in gone),
        *(f"ADD COLUMN {quote_identifier(name)} {kind}" for name, kind in come),
    ]


def columns_of(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """The (name, type) pairs of a DESCRIBE."""
    return tuple((row[0], row[1]) for row in rows)


def quoted(model: Model) -> str:
    """The model's table, quoted."""
    return f"main.{quote_identifier(model.name)}"
