"""One model within a run: the rows of its affected keys made anew, or all of them.

Affected keys come from what changed in each input: of staging tables the change feed since the model's cursor, of
models what this transaction changed in them, handed on in memory, since the feed does not see the running
transaction. Rows that come out as they were are left alone, and affect nothing below.

The feed is read from the cursor's own snapshot on, which expiry keeps; that one holds only what the model's own run
wrote. Of most models only the keys of the feed are used: it tells too much after a rewrite, and counts nothing. But
of a key of which it tells insertions alone, all that came is in it, and nothing went
(tests/integration/test_foundation_change_feed.py). For models of newest rows (feeders.latest) that is enough: neither
they, nor a model that needs the very rows that another one has just made, read tables that grow for ever.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from feeders.lake import StatementFailed, Transaction
from feeders.model_cursors import ModelCursor
from feeders.models import Input, Model
from feeders.rebuild import columns_of, quoted, rebuild
from feeders.types import quote_identifier

LOSSY = re.compile(r"\b(INTERVAL|U?HUGEINT|TIME WITH TIME ZONE)\b")
"""Types that come back from Parquet otherwise than they were: of milliseconds, as DOUBLE, without their zone."""

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


@dataclass(frozen=True, kw_only=True)
class _Made:
    """The temporary tables that hold a model's affected keys, and all of its rows for them."""

    keys: str
    rows: str


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
    _made: dict[str, _Made] = field(default_factory=dict[str, _Made])
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
        self.transaction.query("DROP VIEW IF EXISTS temp.keys")
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
        """Makes the temporary table `affected_…` of the affected keys, and whether rows of them went.

        Returns how many there are. The view `keys` has the keys.
        """
        cursor = self.cursors[model.name]
        parts: list[str] = []
        for each in model.inputs:
            for source in self._sources(model, each, cursor):
                if model.newest_by and each.table not in self.models:
                    column = quote_identifier(each.column or "")
                    parts.append(f"SELECT {column}, change_type <> 'insert' FROM {source}")
                else:
                    changed = f"WITH changed AS (SELECT * FROM {source}) {each.keys_sql}\n"
                    parts.append(f"SELECT key, true FROM ({changed}) AS affected(key)")
        if not parts:
            return 0
        union = " UNION ALL ".join(parts)
        try:
            keys = self._make(
                self._affected_name(model),
                f"SELECT key, bool_or(went) AS went FROM ({union}) AS parts(key, went)"
                " WHERE key IS NOT NULL GROUP BY key",
            )
        except StatementFailed as error:
            # An expired end of the span, or a table that was made anew; if it is the map, a rebuild still is right.
            raise NeedsRebuild(model, f"its changes can't be read: {error}") from error
        self._show_keys(self._affected_name(model))
        return keys

    def _affected_name(self, model: Model) -> str:
        return f"affected_{list(self.models).index(model.table)}"

    def _show_keys(self, table: str) -> None:
        """Lets maps and restricts see the keys of a temporary table as `keys`."""
        self.transaction.query(f"CREATE OR REPLACE TEMP VIEW keys AS SELECT key FROM temp.{table}")

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
        """Makes `old` and `new_…`, the rows of the affected keys; returns why that is not enough, if it is not."""
        key = quote_identifier(model.key)
        affected = f"WHERE {key} IN (SELECT key FROM keys)"
        try:
            self._make("old", f"SELECT * FROM {quoted(model)} {affected}")
        except StatementFailed as error:
            raise NeedsRebuild(model, f"its table can't be read: {error}") from error
        new, columns = self._new_name(model), self._columns("temp.old")
        is_lossy = any(LOSSY.search(kind) for _, kind in columns)
        if model.newest_by and model.inputs[0].table not in self.models and not is_lossy:
            if not self._take_newest(model, new):
                return "its columns have changed"
        else:
            self._make(new, f"SELECT * FROM ({model.restricted_from(self._made_for(model))}\n) {affected}")
        if columns != self._columns(f"temp.{new}"):
            return "its columns have changed"
        if not is_lossy:  # else what is stored is not what was made
            self._made[model.table] = _Made(keys=self._affected_name(model), rows=new)
        return ""

    def _take_newest(self, model: Model, new: str) -> bool:
        """Makes `new_…` of the model's own rows and of those that came; looks up what these can't decide.

        Returns whether its columns are those of its table.
        """
        [each], key = model.inputs, quote_identifier(model.key)
        [feed] = self._sources(model, each, self.cursors[model.name])
        affected, order = self._affected_name(model), quote_identifier(model.newest_by or "")
        mapped = quote_identifier(each.column or "")
        only_came = f"IN (SELECT key FROM temp.{affected} WHERE NOT went)"
        rows = (
            f"SELECT * EXCLUDE (snapshot_id, rowid, change_type) FROM {feed}"
            f" WHERE change_type = 'insert' AND {mapped} {only_came}"
        )
        self._make("came", f"SELECT * FROM ({model.reading({each.table: rows})}\n) WHERE {key} {only_came}")
        if self._columns("temp.old") != self._columns("temp.came"):
            return False
        undecided = self._make(
            "undecided",
            f"SELECT key FROM temp.{affected} WHERE went UNION"
            f" SELECT {key} FROM temp.came JOIN temp.old USING ({key})"
            f" WHERE coalesce(came.{order} = old.{order}, true)",
        )
        look_up = ""
        if undecided:
            self._show_keys("undecided")
            look_up = (
                f" UNION ALL SELECT * FROM ({model.restricted_sql}\n) WHERE {key} IN (SELECT key FROM keys)"
            )
        self._make(
            new,
            f"(SELECT * FROM (FROM temp.came UNION ALL FROM temp.old)"
            f" WHERE {key} NOT IN (SELECT key FROM temp.undecided)"
            f" QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {order} DESC) = 1){look_up}",
        )
        return True

    def _made_for(self, model: Model) -> dict[str, str]:
        """For inputs of which this run has all the rows that the affected keys need: where they are."""
        found: dict[str, str] = {}
        for each in model.inputs:
            made = self._made.get(each.table)
            if made is None or each.column != self.models[each.table].key:
                continue
            [(others,)] = self.transaction.query(
                f"SELECT count(*) FROM keys WHERE key NOT IN (SELECT key FROM temp.{made.keys})"
            )
            if not others:
                found[each.table] = f"temp.{made.rows}"
        return found

    def _new_name(self, model: Model) -> str:
        """The rows of a model that others read are kept until the run's end."""
        is_read = any(each.table == model.table for other in self.models.values() for each in other.inputs)
        return f"new_{list(self.models).index(model.table)}" if is_read else "new"

    def _apply(self, model: Model) -> int:
        """Replaces those rows that are not as they were, and hands them on; returns how many were written."""
        flow, new = f"flow_{len(self._flows)}", self._new_name(model)
        # As EXCEPT ALL both ways would, in one pass. Which keys are in there counts, not how often a row is.
        differ = self._make(
            flow,
            "SELECT * EXCLUDE (_lotus_sign)"
            f" FROM (SELECT 1 AS _lotus_sign, * FROM temp.{new} UNION ALL SELECT -1, * FROM temp.old)"
            " GROUP BY ALL HAVING sum(_lotus_sign) <> 0",
        )
        if not differ:
            return 0
        key = quote_identifier(model.key)
        differing = f"WHERE {key} IN (SELECT {key} FROM temp.{flow})"
        [(gone, came)] = self.transaction.query(
            f"SELECT (SELECT count(*) FROM temp.old {differing}), (SELECT count(*) FROM temp.{new} {differing})"
        )
        self._flows[model.table] = f"temp.{flow}"
        if gone:
            self.transaction.change(f"DELETE FROM {quoted(model)} {differing}")
        if came:
            self.transaction.change(f"INSERT INTO {quoted(model)} SELECT * FROM temp.{new} {differing}")
        return int(came)

    def _make(self, name: str, query: str) -> int:
        """Makes a temporary table; returns how many rows it has."""
        self._temporary.add(name)
        return self.transaction.change(f"CREATE OR REPLACE TEMP TABLE {name} AS {query}")

    def _count(self, table: str) -> int:
        return int(self.transaction.query(f"SELECT count(*) FROM {table}")[0][0])

    def _columns(self, table: str) -> tuple[tuple[str, str], ...]:
        return columns_of(self.transaction.query(f"DESCRIBE {table}"))
