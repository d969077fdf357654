"""Cursors: the durable position of each stream, and the fence between two overlapping loads of it.

Each stream has exactly one row from the DDL on (a DELETE that matches nothing takes part in no conflict
check), and each append replaces the rows of its streams by DELETE and INSERT.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from feeders.lake import LakeMisconfigured, Transaction
from feeders.streams import StreamId


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A stream's position: the greatest key loaded, in UTF-8 byte order, and totals over all loads.

    `day` is the youngest partition day loaded: where a narrowed sweep starts from.
    """

    path: str = ""
    day: date | None = None
    files: int = 0
    rows: int = 0

    def is_below(self, key: str) -> bool:
        """Says whether `key` is above this cursor: then nothing of that key was ever loaded."""
        return self.path.encode() < key.encode()

    def advanced(self, keys: Iterable[tuple[str, date]], *, files: int, rows: int) -> "Cursor":
        """The cursor after these keys were loaded; it never goes back."""
        path, day = self.path, self.day
        for key, key_day in keys:
            path = max(path, key, key=str.encode)
            day = key_day if day is None else max(day, key_day)
        return Cursor(path=path, day=day, files=self.files + files, rows=self.rows + rows)


def ensure_cursors(transaction: Transaction, streams: Iterable[StreamId]) -> int:
    """Gives every stream its row; returns how many were missing."""
    known = {StreamId(source=source, stream=stream) for source, stream in transaction.query(_ALL)}
    missing = [stream for stream in streams if stream not in known]
    if missing:
        write_cursors(transaction, {stream: Cursor() for stream in missing})
    return len(missing)


_ALL = "SELECT source, stream FROM meta.feeder_cursors"


def read_cursors(transaction: Transaction, streams: Sequence[StreamId]) -> dict[StreamId, Cursor]:
    """Reads the cursors of these streams, inside the transaction that will replace them.

    Raises:
        LakeMisconfigured: a stream has no row, or more than one.
    """
    rows = transaction.query(
        "SELECT source, stream, cursor_path, cursor_date, files, rows FROM meta.feeder_cursors"
        " WHERE source IN (SELECT unnest(?)) AND stream IN (SELECT unnest(?))",
        ([s.source for s in streams], [s.stream for s in streams]),
    )
    cursors = {
        StreamId(source=source, stream=stream): Cursor(path=path, day=day, files=files, rows=count)
        for source, stream, path, day, files, count in rows
        if StreamId(source=source, stream=stream) in streams
    }
    found = sum(1 for row in rows if StreamId(source=row[0], stream=row[1]) in streams)
    if len(cursors) != len(streams) or found != len(streams):
        raise LakeMisconfigured(
            f"meta.feeder_cursors has {found} rows for the {len(streams)} streams of this batch, expected one each",
            hint="run `lotus-lake ddl apply`, which adds a missing row; of double rows delete all but one by hand",
        )
    return cursors


def replace_cursors(transaction: Transaction, cursors: Mapping[StreamId, Cursor]) -> None:
    """Replaces the rows of these streams; this DELETE is what makes overlapping loads conflict."""
    streams = list(cursors)
    removed = transaction.change(
        "DELETE FROM meta.feeder_cursors WHERE (source, stream) IN (SELECT unnest(?), unnest(?))",
        ([s.source for s in streams], [s.stream for s in streams]),
    )
    if removed != len(streams):
        raise LakeMisconfigured(
            f"the DELETE of {len(streams)} cursors removed {removed} rows, expected exactly one each",
            hint="run `lotus-lake ddl apply`, which adds a missing row; of double rows delete all but one by hand",
        )
    write_cursors(transaction, cursors)


def write_cursors(transaction: Transaction, cursors: Mapping[StreamId, Cursor]) -> None:
    """Inserts the rows of these streams."""
    transaction.change(
        "INSERT INTO meta.feeder_cursors (source, stream, cursor_path, cursor_date, files, rows, updated_at)"
        " SELECT unnest(?), unnest(?), unnest(?), unnest(?::DATE[]), unnest(?::BIGINT[]), unnest(?::BIGINT[]), now()",
        (
            [stream.source for stream in cursors],
            [stream.stream for stream in cursors],
            [cursor.path for cursor in cursors.values()],
            [cursor.day for cursor in cursors.values()],
            [cursor.files for cursor in cursors.values()],
            [cursor.rows for cursor in cursors.values()],
        ),
    )
