"""Whether a file's rows are in an old lake's table, judged by counts. Pure; who counts is `feeders.adoption_check`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from feeders.ledger import ObjectVersion
from feeders.streams import Partition, StreamId

Kind = Literal[
    "absent", "partial", "beyond", "shared", "doubled", "no_id", "stray", "elsewhere", "unreadable", "cursor"
]
"""What disagrees.

absent: a file at or before the cursor of which no row is there. partial: of which some are. beyond: a file after the
cursor of which all are. shared: raw ids that a file has twice, or another file too. doubled: raw ids that are in the
table more than once. no_id: rows without a raw id. stray: rows that no file has. elsewhere: rows that say that they are
of another file. unreadable: a file that can't be read. cursor: one that is no key of its stream.
"""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Where rows and files disagree.

    Attributes:
        key: of the file; None for what is of none.
        rows: how many rows it is about.
        in_file: rows of the file, if it could be read.
        in_staging: how many of these are in the table.
        detail: what else there is to say.
    """

    kind: Kind
    stream: StreamId
    table: str
    key: str | None = None
    rows: int = 0
    in_file: int | None = None
    in_staging: int | None = None
    detail: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A file whose raw ids were noted under its number."""

    number: int
    version: ObjectVersion
    partition: Partition
    rows: int


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many rows of a file have no id, share theirs, are in the table, are there more than once or elsewhere."""

    no_id: int = 0
    shared: int = 0
    there: int = 0
    doubled: int = 0
    elsewhere: int = 0


@dataclass(frozen=True, kw_only=True)
class Left:
    """Rows of the table that no file explains: without a raw id, and with one that no file has."""

    no_id: int = 0
    stray: int = 0


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What is to be written of a stream: these files, whose rows are matched; and how many were left to be loaded."""

    stream: StreamId
    files: tuple[ReadFile, ...]
    left: int

    @property
    def rows(self) -> int:
        """Rows of the files."""
        return sum(file.rows for file in self.files)


def judge_claims(
    read: Sequence[ReadFile], counts: Mapping[int, Count], *, has_cursor: bool, stream: StreamId, table: str
) -> tuple[list[ReadFile], list[Disagreement]]:
    """Says which files were loaded, and what disagrees.

    Args:
        read: the files at or before the cursor; without a cursor all files.
        counts: by the files' numbers; a file without rows has none.
        has_cursor: then all of these files must be there. Else those are loaded whose rows are.
        stream: whose files these are.
        table: its staging table.
    """
    loaded: list[ReadFile] = []
    found: list[Disagreement] = []
    for file in read:
        count = counts.get(file.number, Count())
        if not has_cursor and not count.there:
            continue  # of a file without rows nobody can tell: loading it does no harm
        if (about := _about(file, count)) is None:
            loaded.append(file)
            continue
        kind, rows = about
        found.append(
            Disagreement(
                kind=kind,
                stream=stream,
                table=table,
                key=file.version.key,
                rows=rows,
                in_file=file.rows,
                in_staging=count.there,
            )
        )
    return loaded, found


def _about(file: ReadFile, count: Count) -> tuple[Kind, int] | None:
    """What disagrees about a file that has to be there, and of how many rows; of several the first that explains."""
    missing = file.rows - count.there
    reasons: tuple[tuple[Kind, int], ...] = (
        ("no_id", count.no_id),
        ("absent", missing if not count.there else 0),
        ("shared", count.shared),
        ("partial", missing),
        ("doubled", count.doubled),
        ("elsewhere", count.elsewhere),
    )
    return next(((kind, rows) for kind, rows in reasons if rows), None)


def judge_beyond(
    read: Sequence[ReadFile], there: Mapping[int, int], *, stream: StreamId, table: str
) -> list[Disagreement]:
    """Names the files after the cursor that have rows in the table which no earlier file explains."""
    return [
        Disagreement(
            kind="beyond" if found == file.rows else "partial",
            stream=stream,
            table=table,
            key=file.version.key,
            rows=found,
            in_file=file.rows,
            in_staging=found,
        )
        for file in read
        if (found := there.get(file.number, 0))
    ]


def judge_left(left: Left, *, stream: StreamId, table: str) -> list[Disagreement]:
    """Names what is in the table and of no file."""
    kinds: tuple[tuple[Kind, int], ...] = (("no_id", left.no_id), ("stray", left.stray))
    return [Disagreement(kind=kind, stream=stream, table=table, rows=rows) for kind, rows in kinds if rows]
