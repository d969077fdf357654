"""What `lotus-lake audit` prints: one JSON object, or a table with the keys that nothing explains."""

from collections.abc import Callable
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.audit import Audited
from consumer.audit_repair import Repaired, remedy_of
from consumer.cli.asking import plain
from feeders.audit_findings import Count, Finding
from feeders.streams import StreamId

SCHEMA = "lotus-lake.audit/1"
"""docs/audit.schema.json has its fields."""
WIDTH = 1000
"""A stream is one line, whatever the terminal's width."""
COLUMNS = ("objects", "loaded", "dead", "pending", "missing", "gone", "retained")
ROW_COLUMNS = ("rows in files", "rows kept", "rows in staging")


def document_of(audited: Audited, findings: list[Finding], repaired: Repaired | None) -> dict[str, object]:
    """What --json prints."""
    scope = audited.scope
    return {
        "schema": SCHEMA,
        "complete": not audited.unexplained,
        "scope": {
            "bucket": scope.bucket,
            "prefixes": list(scope.prefixes),
            "source": scope.stream.source if scope.stream else None,
            "stream": scope.stream.stream if scope.stream else None,
            "from": scope.days[0].isoformat() if scope.days else None,
            "to": scope.days[1].isoformat() if scope.days else None,
        },
        "rows": audited.rows_from,
        "began_at": audited.began_at.isoformat(timespec="microseconds"),
        "seconds": round(audited.seconds, 3),
        "snapshot": audited.snapshot,
        "streams": [named(each.stream) | without_stream(each) for each in audited.counts],
        "total": without_stream(total_of(audited.counts)),
        "kinds": audited.kinds,
        "unexplained": [finding_json(each) for each in findings],
        "truncated": len(findings) < audited.unexplained,
        "repair": None if repaired is None else repair_json(repaired),
    }


def named(stream: StreamId | None) -> dict[str, object]:
    """Source and stream; null for what is of no stream."""
    return {"source": stream.source if stream else None, "stream": stream.stream if stream else None}


def without_stream(count: Count) -> dict[str, object]:
    """The numbers of a count."""
    return {name: value for name, value in asdict(count).items() if name != "stream"}


def finding_json(finding: Finding) -> dict[str, object]:
    """A key that nothing explains, for --json."""
    return {
        "kind": finding.kind,
        **named(finding.stream),
        "key": finding.key or None,
        "etag": finding.etag,
        "loaded_etag": finding.loaded_etag,
        "rows_expected": finding.rows_expected,
        "rows_in_staging": finding.rows_in_staging,
        "remedy": remedy_of(finding),
    }


def repair_json(repaired: Repaired) -> dict[str, object]:
    """What was published, for --json."""
    return {
        "load": repaired.load,
        "replay": repaired.replay,
        "remove": repaired.remove,
        "already_queued": repaired.already_queued,
        "held": {str(stream): asdict(absence) for stream, absence in repaired.held.items()},
        "stalled": sorted(names_of_queue(repaired)),
        "left": repaired.left,
    }


def total_of(counts: tuple[Count, ...]) -> Count:
    """The sum of all streams."""

    def of(pick: Callable[[Count], int | None]) -> int:
        return sum(pick(each) or 0 for each in counts)

    is_counted = any(each.rows_in_staging is not None for each in counts)
    return Count(
        stream=None,
        objects=of(lambda each: each.objects),
        loaded=of(lambda each: each.loaded),
        dead=of(lambda each: each.dead),
        pending=of(lambda each: each.pending),
        missing=of(lambda each: each.missing),
        retained=of(lambda each: each.retained),
        leaving=of(lambda each: each.leaving),
        gone=of(lambda each: each.gone),
        arrived=of(lambda each: each.arrived),
        rows_in_files=of(lambda each: each.rows_in_files),
        rows_kept=of(lambda each: each.rows_kept),
        rows_in_staging=of(lambda each: each.rows_in_staging) if is_counted else None,
        by_ledger=of(lambda each: each.by_ledger),
        unexplained=of(lambda each: each.unexplained),
    )


def show(audited: Audited, findings: list[Finding], repaired: Repaired | None) -> None:
    """A line for each stream, the keys that nothing explains, and the sum."""
    total = total_of(audited.counts)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("stream")
    heads = COLUMNS + (ROW_COLUMNS if audited.rows_from != "none" else ())
    for name in heads:
        shown.add_column(name, justify="right")
    for each in audited.counts:
        shown.add_row(Text(plain(each.stream or "of no stream")), *numbers(each, len(heads)))
    shown.add_row("total", *numbers(total, len(heads)))
    Console(highlight=False, width=WIDTH).print(shown)
    typer.echo("")
    for finding in findings:
        typer.echo(f"{finding.kind:<8} {plain(finding.key) or '-'}  {words_of(finding)}")
    if len(findings) < audited.unexplained:
        typer.echo(f"… and {audited.unexplained - len(findings):,} more; --limit names them")
    show_sum(audited, total)
    if repaired is not None:
        show_repair(repaired)


def numbers(count: Count, columns: int) -> list[str]:
    """The cells of a count."""
    staged = "-" if count.rows_in_staging is None else f"{count.rows_in_staging:,}"
    cells = (
        count.objects,
        count.loaded,
        count.dead,
        count.pending,
        count.missing,
        count.gone + count.leaving,
        count.retained,
        count.rows_in_files,
        count.rows_kept,
    )
    return [*(f"{cell:,}" for cell in cells), staged][:columns]


def words_of(finding: Finding) -> str:
    """What is wrong with a key."""
    staged, expected = finding.rows_in_staging, finding.rows_expected
    match finding.kind:
        case "missing":
            version = "" if finding.loaded_etag is None else ", an earlier version of it is loaded"
            strays = (
                f", {staged:,} rows that the ledger does not know are in staging"
                if (staged and finding.loaded_etag is None)
                else ""
            )
            return f"in the bucket, and neither loaded, dead nor pending{version}{strays}"
        case "gone":
            return f"not in the bucket, {expected:,} rows of it are loaded"
        case "footer":
            return "loaded, and its footer can't be read"
        case "rows" if expected == 0 and finding.loaded_etag is None:
            whose = f"{finding.stream}: " if finding.stream else ""
            return f"{whose}{staged or 0:,} rows in staging that the ledger does not know"
        case "rows":
            return f"{staged or 0:,} rows in staging, expected {expected:,}"


def show_sum(audited: Audited, total: Count) -> None:
    """The two equations, and whether they hold."""
    parts = [f"{total.loaded:,} loaded", f"{total.dead:,} dead", f"{total.pending:,} pending"]
    if total.missing:
        parts.append(f"{total.missing:,} missing")
    typer.echo(f"{total.objects:,} objects = {' + '.join(parts)}")
    if total.rows_in_staging is not None:
        said = "rows in files" if audited.rows_from == "footers" else "rows by the ledger"
        there = total.rows_in_files + total.rows_kept
        sign = "=" if there == total.rows_in_staging else "≠"
        typer.echo(
            f"{total.rows_in_files:,} {said} + {total.rows_kept:,} kept {sign} {total.rows_in_staging:,} in staging"
        )
    if total.arrived or total.by_ledger:
        typer.echo(f"while it ran, {total.arrived:,} objects arrived and {total.by_ledger:,} changed")
    if audited.unexplained:
        found = ", ".join(f"{number:,} {kind}" for kind, number in audited.kinds.items())
        typer.echo(f"unexplained: {found}; {audited.seconds:.1f} s")
    else:
        typer.echo(f"complete: nothing is unexplained; {audited.seconds:.1f} s")


def show_repair(repaired: Repaired) -> None:
    """What was published, and what is left for a person."""
    typer.echo(
        f"published, for the service: {repaired.load:,} to load, {repaired.replay:,} to load again,"
        f" {repaired.remove:,} to remove; {repaired.already_queued:,} of them were there already"
    )
    for stream, absence in repaired.held.items():
        typer.echo(
            f"{stream}: {absence.gone:,} of {absence.present:,} keys are gone and wait;"
            f" if they are meant to be: lotus-lake sweep --confirm {stream}",
            err=True,
        )
    if repaired.stalled:
        typer.echo(
            f"left out, since their queue is full and does not move: {', '.join(sorted(names_of_queue(repaired)))}",
            err=True,
        )
    if repaired.left:
        typer.echo(
            f"{repaired.left:,} keys no event repairs; of rows that are too many `lotus-lake replay KEY` leaves"
            " those of the object",
            err=True,
        )


def names_of_queue(repaired: Repaired) -> list[str]:
    """The names of the streams that there was no room for."""
    return [
        str(of) if isinstance(of, StreamId) else "keys of no stream" if of is None else "replays"
        for of in repaired.stalled
    ]
