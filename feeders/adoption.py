"""Whether a file's rows are in an old lake's table, judged by counts. Pure; who counts is `feeders.adoption_check`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from feeders.ledger import ObjectVersion
from feeders.streams import Partition, StreamId

Kind = Literal[
    "absent",
    "partial",
    "beyond",
    "shared",
    "doubled",
    "no_id",
    "stray",
    "elsewhere",
    "unreadable",
    "cursor",
    "lacks",
]
"""What disagrees.

absent: a file at or before the cursor of which no row is there.
partial: a file of which some rows are there and some are not, or not as often as in the files.
beyond: a file after the cursor of which all rows are there.
shared: without a cursor, a file that has no raw id of its own, so that nobody can tell whether it was loaded.
doubled: rows that are in the table more often than in the files.
no_id: rows without a raw id.
stray: rows that no file has.
elsewhere: rows that say that they are of another file.
unreadable: a file that can't be read.
cursor: a cursor that is no key of its stream.
lacks: values of the files for which the table has no column, and that are not in its `_rescued_data`.
"""


MAX_PATHS = 50
"""So many columns and fields are named."""


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
    """A file whose raw ids were noted under its number.

    Attributes:
        rescued_rows: how many of its rows have values that the old table's columns don't hold.
        rescued_paths: of which columns and fields.
    """

    number: int
    version: ObjectVersion
    partition: Partition
    rows: int
    rescued_rows: int = 0
    rescued_paths: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Of the rows that were matched with a file: how many say another one, and have something in `_rescued_data`."""

    elsewhere: int = 0
    rescued: int = 0


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many rows of a file have no id; have one that is nowhere else in the files; of these, of all: are there."""

    no_id: int = 0
    sole: int = 0
    sole_there: int = 0
    there: int = 0


@dataclass(frozen=True, kw_only=True)
class Copies:
    """How many rows of a file the table has less often than the files, or more often."""

    short: int = 0
    over: int = 0


@dataclass(frozen=True, kw_only=True)
class Left:
    """Rows of the table that no file explains: without a raw id, and with one that no file has."""

    no_id: int = 0
    stray: int = 0


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What is to be written of a stream: these files, whose rows are matched; and how many were left to be loaded.

    Attributes:
        matched: what there is to say of the files' rows, by the files' numbers.
    """

    stream: StreamId
    files: tuple[ReadFile, ...]
    left: int
    matched: Mapping[int, Matched] = field(default_factory=dict[int, Matched])

    @property
    def rows(self) -> int:
        """Rows of the files."""
        return sum(file.rows for file in self.files)


def judge_loaded(
    read: Sequence[ReadFile], counts: Mapping[int, Count], *, stream: StreamId, table: str
) -> tuple[list[ReadFile], list[Disagreement]]:
    """Says which files were loaded, where no cursor tells: those of whose own raw ids some are there.

    Of a file without rows nobody can tell: loading it does no harm.
    """
    loaded: list[ReadFile] = []
    found: list[Disagreement] = []
    for file in read:
        count = counts.get(file.number, Count())
        if count.sole_there:
            loaded.append(file)
        elif count.there and not count.sole:
            found.append(_disagreement("shared", file, count, count.there, stream, table))
    return loaded, found


def judge_claims(
    claimed: Sequence[ReadFile],
    counts: Mapping[int, Count],
    copies: Mapping[int, Copies],
    *,
    stream: StreamId,
    table: str,
) -> list[Disagreement]:
    """Names those of the files that have to be there which are not, or not once; counts are by their numbers."""
    found: list[Disagreement] = []
    for file in claimed:
        count, copied = counts.get(file.number, Count()), copies.get(file.number, Copies())
        reasons: tuple[tuple[Kind, int], ...] = (
            ("no_id", count.no_id),
            ("absent", 0 if count.there else file.rows),
            ("partial", copied.short),
            ("doubled", copied.over),
        )
        # Of several the first that explains.
        about = [reason for reason in reasons if reason[1]]
        if about:
            kind, rows = about[0]
            found.append(_disagreement(kind, file, count, rows, stream, table))
    return found


def judge_sources(
    claimed: Sequence[ReadFile], matched: Mapping[int, Matched], *, stream: StreamId, table: str
) -> list[Disagreement]:
    """Names the files of which rows say that they are of another one."""
    return [
        _disagreement("elsewhere", file, Count(there=file.rows), rows, stream, table)
        for file in claimed
        if (rows := matched.get(file.number, Matched()).elsewhere)
    ]


def judge_values(
    claimed: Sequence[ReadFile], matched: Mapping[int, Matched], *, stream: StreamId, table: str
) -> list[Disagreement]:
    """Names the columns and fields whose values are in the files, and would be in no column of the table."""
    lacking = [
        (file, lost)
        for file in claimed
        if (lost := file.rescued_rows - matched.get(file.number, Matched()).rescued) > 0
    ]
    if not lacking:
        return []
    paths = sorted({path for file, _ in lacking for path in file.rescued_paths})
    more = "" if len(paths) <= MAX_PATHS else f" and {len(paths) - MAX_PATHS} more"
    return [
        Disagreement(
            kind="lacks",
            stream=stream,
            table=table,
            rows=sum(lost for _, lost in lacking),
            detail=f"{', '.join(paths[:MAX_PATHS])}{more} of {len(lacking)} files",
        )
    ]


def _disagreement(
    kind: Kind, file: ReadFile, count: Count, rows: int, stream: StreamId, table: str
) -> Disagreement:
    return Disagreement(
        kind=kind,
        stream=stream,
        table=table,
        key=file.version.key,
        rows=rows,
        in_file=file.rows,
        in_staging=count.there,
    )


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
