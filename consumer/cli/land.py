"""`lotus-lake land`: writes what Airbyte would write, for all nine streams, into the landing bucket."""

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from consumer.cli.common import WRONG_ENVIRONMENT, errors_shown, fail
from consumer.embedded.errors import StackError
from consumer.embedded.running import read_running
from consumer.landing.generate import DEFAULT_ROWS, Landing
from consumer.landing.write import DEFAULT_CONCURRENCY, Landed, LandingSummary, run_landing
from consumer.objects import open_bucket

DEFAULT_FILES = 60


@dataclass(frozen=True, kw_only=True)
class LandTarget:
    """The bucket to write to, and Airbyte's identity there."""

    endpoint: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str
    bucket: str


def land(
    *,
    directory: Annotated[
        Path,
        typer.Option(
            "--dir", help="Folder of the running `lotus-lake up` that this lands in, with its identity."
        ),
    ] = Path(".lotus"),
    endpoint: Annotated[
        str | None, typer.Option(help="URL of another S3 endpoint, with its own key and secret.")
    ] = None,
    access_key_id: Annotated[str | None, typer.Option(help="Access key of Airbyte's identity there.")] = None,
    secret_access_key: Annotated[str | None, typer.Option(help="Its secret.")] = None,
    region: Annotated[str, typer.Option(help="Region that requests are signed for.")] = "us-east-1",
    bucket: Annotated[str, typer.Option(help="The landing bucket.")] = "landing",
    prefix: Annotated[str, typer.Option(help="Prefix of all streams in it.")] = "raw",
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 1,
    files: Annotated[
        int | None, typer.Option(min=1, help=f"How many files; {DEFAULT_FILES} without --seconds.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Stop after this time.")] = None,
    rate: Annotated[float, typer.Option(min=0, help="Files per second; 0 is as fast as possible.")] = 0,
    rows: Annotated[
        str, typer.Option(help="Rows of a file, or the least and the most: 100 or 20-200.")
    ] = f"{DEFAULT_ROWS[0]}-{DEFAULT_ROWS[1]}",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Puts at once.")] = DEFAULT_CONCURRENCY,
    json_summary: Annotated[
        bool, typer.Option("--json", help="End with one JSON object on standard output.")
    ] = False,
) -> None:
    """Write what Airbyte's S3 destination would write for all nine streams."""
    target = find_target(directory, endpoint, access_key_id, secret_access_key, region=region, bucket=bucket)
    if files is None and seconds is None:
        files = DEFAULT_FILES
    with errors_shown():
        landing = Landing(seed=seed, files=files, rows=parse_rows(rows), prefix=prefix)
        summary = asyncio.run(
            land_into(target, landing, rate=rate, seconds=seconds, files=files, concurrency=concurrency)
        )
    if json_summary:
        typer.echo(json.dumps(summary_json(landing, summary, seed=seed)))


def find_target(
    directory: Path,
    endpoint: str | None,
    access_key_id: str | None,
    secret_access_key: str | None,
    *,
    region: str,
    bucket: str,
) -> LandTarget:
    """Takes what is given; what is not is that of the stack that runs in the folder.

    Raises:
        typer.BadParameter: another endpoint without a key: the stack's own secret is not sent elsewhere.
        typer.Exit: no stack runs in the folder.
    """
    if (access_key_id is None) != (secret_access_key is None):
        message = "an access key and its secret come together"
        raise typer.BadParameter(message, param_hint="--access-key-id, --secret-access-key")
    if access_key_id is None and endpoint is not None:
        message = "another endpoint needs --access-key-id and --secret-access-key"
        raise typer.BadParameter(message, param_hint="--endpoint")
    if endpoint is None or access_key_id is None or secret_access_key is None:
        try:
            running = read_running(directory)
        except StackError as error:
            fail(
                str(error),
                WRONG_ENVIRONMENT,
                hint="or give --endpoint, --access-key-id and --secret-access-key",
            )
        endpoint = endpoint or running.s3_url
        access_key_id = access_key_id or running.lander.access_key_id
        secret_access_key = secret_access_key or running.lander.secret_access_key
    return LandTarget(
        endpoint=endpoint,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        region=region,
        bucket=bucket,
    )


def parse_rows(text: str) -> tuple[int, int]:
    """Parses `100` or `20-200`.

    Raises:
        typer.BadParameter: it is neither, or the least is 0 or above the most.
    """
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        message = f"{text!r} is neither a number of rows, 1 or more, nor a range like 20-200"
        raise typer.BadParameter(message, param_hint="--rows")
    return least, most


async def land_into(
    target: LandTarget,
    landing: Landing,
    *,
    rate: float,
    seconds: float | None,
    files: int | None,
    concurrency: int = DEFAULT_CONCURRENCY,
) -> LandingSummary:
    """Runs a landing into a bucket behind a progress bar on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with open_bucket(
        endpoint=target.endpoint,
        access_key_id=target.access_key_id,
        secret_access_key=target.secret_access_key,
        region=target.region,
        bucket=target.bucket,
        max_connections=concurrency,
    ) as opened:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(f"landing in {target.bucket}", total=files)

            def show(_: Landed) -> None:
                progress.advance(task)

            return await run_landing(
                landing, opened.put, rate=rate, seconds=seconds, on_progress=show, concurrency=concurrency
            )


def summary_json(landing: Landing, summary: LandingSummary, *, seed: int) -> dict[str, object]:
    """Returns the JSON summary: what was put, and what the lake must hold in the end."""
    return {
        "seed": seed,
        "files": summary.files,
        "objects": summary.objects,
        "rows_put": summary.rows,
        "bytes_put": summary.size_bytes,
        "seconds": round(summary.duration_s, 3),
        "fct_sales_rows_expected": len(landing.expected_sales()),
        "streams": {
            stream: {"objects": each.objects, "rows": each.rows}
            for stream, each in sorted(landing.totals().items())
        },
    }
