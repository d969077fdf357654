"""What `lotus-lake adopt` prints: one JSON object, or a line for each stream and where rows and files disagree."""

from collections.abc import Sequence
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.adopt import Found
from consumer.cli.asking import plain
from feeders.adoption import Disagreement

SCHEMA = "lotus-lake.adopt/1"
WIDTH = 1000
"""A stream is one line, whatever the terminal's width."""
HEADS = ("files", "adopted", "to load", "rows adopted", "rows in staging")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found, and whether it was written. `unknown` are tables of which no file of `ddl/` tells."""

    applied: bool
    found: tuple[Found, ...]
    unknown: tuple[str, ...]
    seconds: float

    @property
    def disagreements(self) -> tuple[Disagreement, ...]:
        """All that disagrees, stream by stream."""
        return tuple(each for found in self.found for each in found.disagreements)

    @property
    def accepted(self) -> tuple[Disagreement, ...]:
        """Values that tables lack, and which replays have to bring."""
        return tuple(each for found in self.found for each in found.accepted)

    @property
    def wanted(self) -> list[Found]:
        """The streams that are to be written, or were."""
        return [each for each in self.found if each.adoption is not None and each.adoption.files]


def document_of(report: Report, *, limit: int) -> dict[str, object]:
    """What --json prints."""
    return {
        "schema": SCHEMA,
        "applied": report.applied,
        "agrees": not report.disagreements,
        "seconds": round(report.seconds, 3),
        "streams": [stream_json(each) for each in report.found],
        "unknown_tables": list(report.unknown),
        "disagreements": len(report.disagreements),
        "to_replay": [disagreement_json(each) for each in report.accepted],
        "named": [disagreement_json(each) for each in report.disagreements[:limit]],
    }


def state_of(found: Found) -> str:
    """What becomes of a stream."""
    if found.disagreements:
        return "disagrees"
    if found.old.is_known:
        return "in the ledger"
    return "agrees" if found.adoption is not None and found.adoption.files else "nothing to adopt"


def stream_json(found: Found) -> dict[str, object]:
    """A stream, for --json."""
    adoption = found.adoption
    return {
        "source": found.old.stream.id.source,
        "stream": found.old.stream.id.stream,
        "table": found.old.stream.qualified_table,
        "state": state_of(found),
        "cursor": None if found.position is None else str(found.position),
        "files": found.listed,
        "adopted_files": 0 if adoption is None else len(adoption.files),
        "adopted_rows": 0 if adoption is None else adoption.rows,
        "files_to_load": None if adoption is None else adoption.left,
        "rows_in_staging": found.old.rows,
    }


def disagreement_json(each: Disagreement) -> dict[str, object]:
    """Where rows and files disagree, for --json."""
    return {
        "kind": each.kind,
        "source": each.stream.source,
        "stream": each.stream.stream,
        "table": each.table,
        "key": each.key,
        "rows": each.rows,
        "rows_in_file": each.in_file,
        "rows_in_staging": each.in_staging,
        "detail": each.detail,
    }


def show(report: Report, *, limit: int) -> None:
    """A line for each stream, where rows and files disagree, and what was done."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("stream")
    for name in HEADS:
        shown.add_column(name, justify="right")
    shown.add_column("cursor")
    shown.add_column("state")
    for each in report.found:
        shown.add_row(*cells(each))
    Console(highlight=False, width=WIDTH).print(shown)
    typer.echo("")
    for name in report.unknown:
        typer.echo(f"left alone: {plain(name)}, no file of ddl/ tells of it")
    show_disagreements([*report.disagreements, *report.accepted], limit=limit)
    typer.echo(f"{summary(report)}; {report.seconds:.1f} s")
    show_hints(report)


def show_hints(report: Report) -> None:
    """What to do about what disagrees, or has to follow."""
    for adoption in (each.adoption for each in report.found if each.accepted):
        days = sorted(file.partition.date() for file in adoption.files) if adoption else []
        if adoption and days:
            typer.echo(
                f"hint:  once `lotus-lake run` is at work: lotus-lake replay --source {adoption.stream.source}"
                f" --stream {adoption.stream.stream} --from {days[0]} --to {days[-1]}",
                err=True,
            )
    misled = [
        each.stream for each in report.disagreements if each.kind in ("absent", "partial", "beyond", "cursor")
    ]
    if misled:
        typer.echo(
            "hint:  if a stream was not loaded in the order of its keys, let its rows alone tell:"
            f" --cursor {misled[0]}=",
            err=True,
        )


def cells(found: Found) -> list[str | Text]:
    """A stream's line; what was not looked at is a dash."""
    adoption = found.adoption
    numbers = (
        (f"{found.listed:,}", f"{len(adoption.files):,}", f"{adoption.left:,}", f"{adoption.rows:,}")
        if adoption is not None
        else ("-",) * 4
    )
    cursor = "-" if found.position is None else plain(found.position)
    return [Text(str(found.old.stream.id)), *numbers, f"{found.old.rows:,}", Text(cursor), state_of(found)]


def show_disagreements(found: Sequence[Disagreement], *, limit: int) -> None:
    """A line for each, at most so many."""
    for each in found[:limit]:
        place = each.table if each.key is None else plain(each.key)
        typer.echo(f"{each.kind:<10} {place}  {words_of(each)}")
    if len(found) > limit:
        typer.echo(f"… and {len(found) - limit:,} more; --limit names them")


def words_of(each: Disagreement) -> str:
    """What disagrees."""
    # Rows whose raw ids are in several files have to be there as often.
    short = ", not as often as in the files" if each.in_file == each.in_staging else ""
    match each.kind:
        case "absent":
            return f"at or before the cursor, and none of its {each.in_file or 0:,} rows is in {each.table}"
        case "partial":
            return f"{each.in_staging or 0:,} of its {each.in_file or 0:,} rows are in {each.table}{short}"
        case "beyond":
            return f"after the cursor, and all its {each.in_file or 0:,} rows are in {each.table}"
        case "shared":
            return "each of its raw ids is in another file too: only a cursor tells which of them were loaded"
        case "doubled":
            return f"{each.rows:,} of its {each.in_file or 0:,} rows are in {each.table} more often than in the files"
        case "no_id":
            return f"{each.rows:,} rows without _airbyte_raw_id"
        case "stray":
            return f"{each.rows:,} rows that no file in the bucket has"
        case "elsewhere":
            return f"{each.rows:,} of its rows in {each.table} say another _source_file"
        case "unreadable":
            return f"can't be read: {plain(each.detail)}"
        case "lacks":
            return (
                f"{each.rows:,} rows would lack values: it has no column for {plain(each.detail)};"
                " --replay-later adopts them, and a replay of the stream brings the values"
            )
        case "cursor":
            return f"the cursor of {each.stream}; {plain(each.detail)}"


def summary(report: Report) -> str:
    """What was done, or would be."""
    if report.disagreements:
        return f"rows and files disagree in {len(report.disagreements):,} places: nothing was written"
    if not report.wanted:
        return "nothing to adopt"
    files = sum(len(each.adoption.files) for each in report.wanted if each.adoption)
    rows = sum(each.adoption.rows for each in report.wanted if each.adoption)
    done = "adopted" if report.applied else "would be adopted; --apply writes it"
    return f"{files:,} files with {rows:,} rows of {len(report.wanted):,} streams {done}"
