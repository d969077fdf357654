"""`meta.transform_cursors`: up to which snapshot each input is in a model, and why a model is held back."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from feeders.errors import StatementFailed
from feeders.lake import Transaction
from feeders.models import Model


@dataclass(frozen=True, kw_only=True)
class ModelCursor:
    """Where a model stands.

    Attributes:
        inputs: for each table that it read, the snapshot up to which the model has it; only those it ever had.
        sql_hash: of the file that made it.
    """

    inputs: Mapping[str, int]
    sql_hash: str

    @property
    def made_in(self) -> int:
        """The snapshot that its last run made."""
        return max(self.inputs.values(), default=-1)


def read_cursors(transaction: Transaction) -> dict[str, ModelCursor]:
    """Where the models stand that ever ran."""
    rows = transaction.query(
        "SELECT model, input, snapshot_id, model_hash FROM meta.transform_cursors WHERE snapshot_id IS NOT NULL"
    )
    inputs: dict[str, dict[str, int]] = {}
    hashes: dict[str, str] = {}
    for model, table, snapshot, sql_hash in rows:
        inputs.setdefault(model, {})[table] = snapshot
        hashes[model] = sql_hash
    return {model: ModelCursor(inputs=inputs[model], sql_hash=hashes[model]) for model in inputs}


def write_cursors(
    transaction: Transaction,
    done: Sequence[Model],
    *,
    snapshot: int,
    failed: Mapping[Model, StatementFailed] = MappingProxyType({}),
    forgotten: Collection[Model] = (),
    defined: Collection[Model] = (),
) -> None:
    """Notes that some models have all of their inputs up to a snapshot, and why others are held back.

    One DELETE and one INSERT for all: what changes twice in a transaction makes DuckLake remove a file at once, which
    the loader must not.

    Args:
        transaction: that of the run.
        done: the models that were brought up to date.
        snapshot: the one that this transaction makes. Without retries of DuckLake's own nobody else's changes can be
            in there (tests/integration/test_foundation_snapshot.py).
        failed: the models whose SQL failed. They stay where they were; since when they fail is kept.
        forgotten: models that are to be rebuilt when they run next.
        defined: all models; the cursors of others go, which would keep their snapshots for ever. None: they stay.
    """
    rows: list[dict[str, str | int | None]] = [
        {"model": model.name, "input": each.table, "snapshot_id": snapshot, "model_hash": model.sql_hash}
        for model in done
        for each in model.inputs
    ]
    for model, error in failed.items():
        rows += _failed_rows(transaction, model, error, is_forgotten=model in forgotten)
    names = [model.name for model in (*done, *failed, *forgotten)]
    if not names:
        return
    kept = json.dumps([model.name for model in defined])
    transaction.change(
        "DELETE FROM meta.transform_cursors WHERE model IN (SELECT unnest(from_json(?, '[\"VARCHAR\"]')))"
        " OR (? <> '[]' AND model NOT IN (SELECT unnest(from_json(?, '[\"VARCHAR\"]'))))",
        (json.dumps(names), kept, kept),
    )
    transaction.change(
        "INSERT INTO meta.transform_cursors (model, input, snapshot_id, model_hash, updated_at, error, error_since)"
        " SELECT model, input, snapshot_id, model_hash, coalesce(updated_at::TIMESTAMPTZ, now()), error,"
        " CASE WHEN error IS NOT NULL THEN coalesce(error_since::TIMESTAMPTZ, now()) END"
        f" FROM (SELECT unnest(from_json(?, '{_ROWS}'), recursive := true))",
        (json.dumps(rows),),
    )


_ROWS = json.dumps(
    [
        {
            "model": "VARCHAR",
            "input": "VARCHAR",
            "snapshot_id": "BIGINT",
            "model_hash": "VARCHAR",
            "updated_at": "VARCHAR",
            "error": "VARCHAR",
            "error_since": "VARCHAR",
        }
    ]
)


def _failed_rows(
    transaction: Transaction, model: Model, error: StatementFailed, *, is_forgotten: bool
) -> list[dict[str, str | int | None]]:
    known: dict[str, tuple[int | None, str | None, str | None, str | None]] = {
        table: (snapshot, sql_hash, updated_at, since)
        for table, snapshot, sql_hash, updated_at, since in transaction.query(
            "SELECT input, snapshot_id, model_hash, updated_at::VARCHAR, error_since::VARCHAR"
            " FROM meta.transform_cursors WHERE model = ?",
            (model.name,),
        )
    }
    rows: list[dict[str, str | int | None]] = []
    for each in model.inputs:
        snapshot, sql_hash, updated_at, since = known.get(each.table, (None, model.sql_hash, None, None))
        rows.append(
            {
                "model": model.name,
                "input": each.table,
                "snapshot_id": None if is_forgotten else snapshot,
                "model_hash": sql_hash,
                "updated_at": updated_at,
                "error": str(error),
                "error_since": since,
            }
        )
    return rows
