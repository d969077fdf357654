"""`lotus-lake demo`: lands files in a real stack and compares the sales with what was expected."""

import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from consumer.cli.common import ANSWER_IS_NO, WRONG_ENVIRONMENT, errors_shown, fail, stderr
from consumer.demo import DEFAULT_RATE, ConsumerDied, Report, run_demo
from consumer.embedded.errors import StackError
from consumer.embedded.stack import Stack

stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 140)

SALES_HEADERS = (
    "order_id",
    "customer_id",
    "financial_status",
    "gross",
    "discounts",
    "returns",
    "net",
    "shipping",
    "taxes",
    "total",
)


def demo(
    *,
    files: Annotated[
        int, typer.Option(min=9, help="How many objects to land, across the nine streams.")
    ] = 60,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 1,
    rate: Annotated[
        float, typer.Option(min=0, help="Files per second; 0 is as fast as possible.")
    ] = DEFAULT_RATE,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the stack's folder here instead of a temporary one.")
    ] = None,
) -> None:
    """Land files in a real SeaweedFS while the consumer runs, and compare both fct tables row by row."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if keep is not None:
            report = land_and_compare(keep, files=files, seed=seed, rate=rate)
        else:
            with tempfile.TemporaryDirectory(prefix="lotus-lake-demo-", ignore_cleanup_errors=True) as folder:
                report = land_and_compare(Path(folder), files=files, seed=seed, rate=rate)
    except KeyboardInterrupt:
        fail("interrupted", ANSWER_IS_NO)
    show(report)
    typer.echo(json.dumps(report.as_json()))
    raise typer.Exit(0 if report.ok else ANSWER_IS_NO)


def land_and_compare(folder: Path, *, files: int, seed: int, rate: float) -> Report:
    """Runs the demo in a folder behind progress bars."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with errors_shown(), Progress(*columns, console=stderr) as progress:
            starting = progress.add_task("starting the servers", total=1)
            with Stack(folder) as stack:
                progress.advance(starting)
                tenant = stack.tenant("lake", landing_bucket="landing", lake_bucket="lake")
                landing = progress.add_task("objects landed", total=files)
                loading = progress.add_task("objects loaded, models fresh", total=files)
                keys: set[str] = set()

                def landed(key: str) -> None:
                    keys.add(key)
                    progress.update(landing, completed=len(keys))

                return asyncio.run(
                    run_demo(
                        stack,
                        tenant,
                        files=files,
                        seed=seed,
                        rate=rate,
                        on_landed=lambda done: landed(done.key),
                        on_loaded=lambda count: progress.update(loading, completed=count),
                    )
                )
    except StackError as error:
        fail(str(error), WRONG_ENVIRONMENT)
    except (ConsumerDied, TimeoutError) as error:
        typer.echo(f"error: {error}", err=True)
        typer.echo(json.dumps({"ok": False, "error": str(error).splitlines()[0]}))
        raise typer.Exit(ANSWER_IS_NO) from None


def show(report: Report) -> None:
    """Prints what an independent reader saw."""
    table = Table(
        "stream",
        "files",
        "rows",
        "PUT → staging ms",
        "PUT → fct_sales ms",
        title="as an independent reader sees it",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for each in report.streams:
        rows = (
            f"{each.rows_loaded}"
            if each.rows_loaded == each.rows_landed
            else f"{each.rows_loaded} of {each.rows_landed}"
        )
        table.add_row(
            each.stream,
            str(each.files),
            rows,
            milliseconds(each.put_to_staging_ms),
            milliseconds(each.put_to_fct_ms),
        )
    stdout.print(table)
    sales = Table(*SALES_HEADERS, title="ten rows of main.fct_sales")
    for row in report.sample:
        sales.add_row(*("" if value is None else str(value) for value in row))
    stdout.print(sales)
    typer.echo(report.sales.describe())
    typer.echo(report.engagement.describe())
    if report.versions_not_seen:
        typer.echo(
            f"{report.versions_not_seen} versions were overwritten before they were read, and are in no latency"
        )
    if report.dead_letters:
        typer.echo(f"{report.dead_letters} dead letters, see meta.feeder_failures")
    if report.consumer_status != 0:
        typer.echo(f"the consumer ended with status {report.consumer_status} after SIGTERM")


def milliseconds(value: float | None) -> str:
    """A figure for the table."""
    return "" if value is None else f"{value:.0f}"


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
