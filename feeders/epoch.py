"""The epoch: the number of a writer's term, and the fence that a new term closes behind the old one.

A writing transaction reads the epoch after BEGIN and touches one of FENCED_TABLES. A new writer raises the
epoch and rewrites a row of each of these tables in the same transaction, so a transaction that was open
meanwhile conflicts with it at COMMIT, whatever it read (tests/integration/test_foundation_fence.py).
"""

from dataclasses import dataclass
from typing import NewType

from feeders.lake import LakeFenced, LakeMisconfigured, Transaction

Epoch = NewType("Epoch", int)

NO_EPOCH = Epoch(0)


@dataclass(frozen=True, kw_only=True)
class Fence:
    """A table that each transaction of its kind touches; rewriting it makes these transactions fail."""

    table: str


FENCED_TABLES = (
    Fence(table="meta.feeder_cursors"),
    Fence(table="meta.transform_cursors"),
    Fence(table="meta.feeder_failures"),
)


def read_epoch(transaction: Transaction) -> Epoch:
    """Reads the epoch; 0 before the first term."""
    rows = transaction.query("SELECT epoch FROM meta.writer_epoch")
    if len(rows) > 1:
        raise LakeMisconfigured(
            f"meta.writer_epoch has {len(rows)} rows, expected one",
            hint="someone wrote to it by hand: delete all rows but the one with the greatest epoch",
        )
    return Epoch(rows[0][0]) if rows else NO_EPOCH


def require_epoch(transaction: Transaction, epoch: Epoch) -> None:
    """Asserts inside the transaction that this process's term still lasts.

    Raises:
        LakeFenced: another process has begun a term since.
    """
    found = read_epoch(transaction)
    if found != epoch:
        raise LakeFenced(f"the lake's epoch is {found}, ours is {epoch}: another process writes now")


def raise_epoch(transaction: Transaction, *, instance: str) -> Epoch:
    """Begins a new term: one more than the last, with a rewrite of every fenced table."""
    epoch = Epoch(read_epoch(transaction) + 1)
    transaction.change("DELETE FROM meta.writer_epoch")
    transaction.change(
        "INSERT INTO meta.writer_epoch (epoch, instance, since) VALUES (?, ?, now())", (epoch, instance)
    )
    for fence in FENCED_TABLES:
        _rewrite_one_row(transaction, fence.table)
    return epoch


def _rewrite_one_row(transaction: Transaction, table: str) -> None:
    """Deletes one row and inserts it again: only a DELETE that matched a row takes part in conflict checks."""
    transaction.query(
        f"CREATE OR REPLACE TEMP TABLE fenced AS SELECT rowid AS fenced_row, * FROM {table} LIMIT 1"
    )
    removed = transaction.change(f"DELETE FROM {table} WHERE rowid IN (SELECT fenced_row FROM temp.fenced)")
    if removed:
        transaction.change(f"INSERT INTO {table} SELECT * EXCLUDE (fenced_row) FROM temp.fenced")
    transaction.query("DROP TABLE temp.fenced")
