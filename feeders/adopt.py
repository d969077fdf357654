"""Writes what was found of an old lake: a stream's columns, its rows' files, its ledger and cursor in one transaction.

A stream whose transaction has not come yet is refused by `feeders.apply.require_ledger`: its rows have no column that
says where they are from. Of tables that have the column already nobody could see it, so they come in the
transaction that makes the ledger.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from feeders.adoption import Adoption, Matched, ReadFile
from feeders.append import qualified
from feeders.apply import found_columns, plan_ddl, prepare_files, require_schema_version
from feeders.cursors import Cursor, write_cursors
from feeders.ddl import render
from feeders.epoch import NO_EPOCH, Epoch, raise_epoch, require_epoch
from feeders.lake import Lake, LakeConflict, LakeFenced, StatementFailed, Transaction
from feeders.ledger import LedgerClock, LedgerEntry, write_entries
from feeders.old_lake import SOURCE_FILE, OldTable
from feeders.streams import Column, Stream
from feeders.tables import META_SCHEMA, STAGING_SCHEMA, Table
from feeders.types import fold, quote_identifier

FOUND_BY = "adopt"
WINDOW = 250_000
"""So many row numbers are rewritten by one statement: what it looks up has to fit into DuckDB's memory."""
ENTRIES_MOST = 5000


@dataclass(kw_only=True)
class Adopter:
    """Takes streams over, one transaction after the other. Owned by the lake's thread.

    Attributes:
        lake: whose temporary tables have the matches of `feeders.adoption_check`.
        tables: all of the project's.
        snapshot: at which everything was looked at. Whoever commits between makes the next transaction fail.
        instance: names this writer.
        by: who asked for it.
        is_writer: says whether this process still has the writer's lock, and was not asked to stop.
    """

    lake: Lake
    tables: Sequence[Table]
    snapshot: int
    instance: str
    by: str
    is_writer: Callable[[], bool]
    clock: LedgerClock = field(default_factory=LedgerClock)
    _epoch: Epoch = NO_EPOCH

    def run(self, adoptions: Sequence[tuple[OldTable, Adoption]]) -> Iterator[Adoption]:
        """Gives each stream once it is committed.

        Raises:
            LakeConflict: somebody else has committed meanwhile; what was given stays.
            LakeFenced, LakeUnavailable, StatementFailed: so too.
        """
        # Files are written in small row groups, or a table's rewrite takes more memory than there is.
        prepare_files(self.lake)
        with self._transaction() as transaction:
            self._prepare(transaction)
        with self._transaction() as transaction:
            # What another writer of ours has begun can't commit from here on.
            self._epoch = raise_epoch(transaction, instance=self.instance)
        with_source = [each for each in adoptions if each[0].has_source]
        others = [[each] for each in adoptions if not each[0].has_source]
        for group in [with_source, *others]:
            with self._transaction() as transaction:
                require_epoch(transaction, self._epoch)
                self._apply(transaction, [table for table in self.tables if _is_ledger(table)])
                for old, adoption in group:
                    self._adopt(transaction, old, adoption)
            yield from (adoption for _, adoption in group)

    @contextmanager
    def _transaction(self) -> Generator[Transaction]:
        self._require_writer()
        with self.lake.transaction("adopt") as transaction:
            self._require_nobody_else(transaction)
            yield transaction
            self._require_writer()
        [(committed,)] = self.lake.query("SELECT id FROM lakehouse.last_committed_snapshot()")
        self.snapshot = self.snapshot if committed is None else int(committed)

    def _require_writer(self) -> None:
        if not self.is_writer():
            raise LakeFenced("the writer's lock was lost: what is adopted stays; adopt again")

    def _require_nobody_else(self, transaction: Transaction) -> None:
        """Asserts that what was looked at is what is there. Who commits from here on makes our COMMIT fail."""
        [(found,)] = transaction.query("SELECT id FROM lakehouse.current_snapshot()")
        if found != self.snapshot:
            raise LakeConflict(
                f"the lake is at snapshot {found}, expected {self.snapshot}: another program writes to it;"
                " stop that, and adopt again: what is adopted stays"
            )

    def _prepare(self, transaction: Transaction) -> None:
        """Makes all tables of meta but the ledger, so that the service refuses the lake until that is there."""
        require_schema_version(transaction)
        transaction.query(f"CREATE SCHEMA IF NOT EXISTS {META_SCHEMA}")
        self._apply(
            transaction, [each for each in self.tables if each.schema == META_SCHEMA and not _is_ledger(each)]
        )
        # An older table of cursors lacks what we count.
        transaction.change(
            "UPDATE meta.feeder_cursors SET cursor_path = coalesce(cursor_path, ''), files = coalesce(files, 0),"
            " rows = coalesce(rows, 0), updated_at = coalesce(updated_at, now())"
            " WHERE cursor_path IS NULL OR files IS NULL OR rows IS NULL OR updated_at IS NULL"
        )

    def _apply(self, transaction: Transaction, tables: Sequence[Table]) -> None:
        for item in plan_ddl(transaction, tables):
            transaction.query(render(item.change, item.table))

    def _adopt(self, transaction: Transaction, old: OldTable, adoption: Adoption) -> None:
        stream = old.stream
        # 1. The columns that an older table lacks.
        transaction.query(f"CREATE SCHEMA IF NOT EXISTS {STAGING_SCHEMA}")
        self._apply(transaction, [table for table in self.tables if _is_of(table, stream)])
        # 2. Each row says which file it is from.
        fill_source(transaction, old, adoption)
        # 3. The ledger, as if each file had been loaded. 4. The cursor.
        entries = [self._entry(file, adoption) for file in adoption.files]
        for begin in range(0, len(entries), ENTRIES_MOST):
            write_entries(
                transaction,
                entries[begin : begin + ENTRIES_MOST],
                epoch=self._epoch,
                loaded_at=self.clock.now(),
            )
        transaction.change(
            "DELETE FROM meta.feeder_cursors WHERE source = ? AND stream = ?",
            (stream.id.source, stream.id.stream),
        )
        write_cursors(transaction, {stream.id: cursor_of(adoption)})

    def _entry(self, file: ReadFile, adoption: Adoption) -> LedgerEntry:
        return LedgerEntry(
            stream=adoption.stream,
            version=file.version,
            rows=file.rows,
            rescued_rows=adoption.matched.get(file.number, Matched()).rescued,
            action="adopted",
            found_by=FOUND_BY,
            requested_by=self.by,
            reason=None,
        )


def _is_ledger(table: Table) -> bool:
    return (table.schema, table.name) == (META_SCHEMA, "feeder_files")


def _is_of(table: Table, stream: Stream) -> bool:
    return table.schema == STAGING_SCHEMA and table.name == stream.table


def cursor_of(adoption: Adoption) -> Cursor:
    """Where a stream stands after its adoption."""
    days = [(file.version.key, file.partition.date()) for file in adoption.files]
    return Cursor().advanced(days, files=len(adoption.files), rows=adoption.rows)


def fill_source(transaction: Transaction, old: OldTable, adoption: Adoption) -> None:
    """Writes the rows that don't say it yet once more, with the file that they are from, and deletes the old ones.

    In windows of row numbers: they are those of the order in which the rows came, so rows of a file stay together.
    An UPDATE of all of them at once would hold them in memory.

    Raises:
        StatementFailed: it would not be the same rows.
    """
    table = qualified(old.stream)
    columns = found_columns(transaction)[STAGING_SCHEMA, old.stream.table]
    insert = _rewrite(old.stream, columns)
    bounds = (
        min((file.number for file in adoption.files), default=0),
        max((file.number for file in adoption.files), default=-1),
    )
    windows = transaction.query(
        "SELECT min(place), max(place) FROM temp.adopt_match WHERE number BETWEEN ? AND ?"
        f" GROUP BY place // {WINDOW} ORDER BY 1",
        bounds,
    )
    inserted = sum(transaction.change(insert, (*bounds, *window)) for window in windows)
    deleted = transaction.change(f"DELETE FROM {table} WHERE {quote_identifier(SOURCE_FILE)} IS NULL")
    [(rows,)] = transaction.query(f"SELECT count(*) FROM {table}")
    if inserted != deleted or rows != adoption.rows:
        raise StatementFailed(
            "RowCount",
            f"{old.stream.qualified_table}: {deleted} rows became {inserted}, and {rows} are there for"
            f" {adoption.rows} of its files",
        )


def _rewrite(stream: Stream, columns: Sequence[Column]) -> str:
    """The INSERT of a window's rows. A day that a row does not have is that of its file's key."""
    filled = {fold(SOURCE_FILE): "landed.key"} | {
        name: f"coalesce(o.{name}, landed.{name})" for name in ("year", "month", "day")
    }
    names = [quote_identifier(column.name) for column in columns]
    sources = [
        filled.get(fold(column.name), f"o.{name}") for column, name in zip(columns, names, strict=True)
    ]
    table = qualified(stream)
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(sources)} FROM {table} AS o"
        " LEFT JOIN (SELECT m.place, f.key, f.year, f.month, f.day FROM temp.adopt_match AS m"
        " JOIN temp.adopt_files AS f ON f.number = m.number"
        " WHERE m.number BETWEEN $1 AND $2 AND m.place BETWEEN $3 AND $4) AS landed ON landed.place = o.rowid"
        f" WHERE o.rowid BETWEEN $3 AND $4 AND o.{quote_identifier(SOURCE_FILE)} IS NULL"
    )
