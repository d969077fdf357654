"""`lotus-lake transform`: the models."""

import json
import time
from typing import Annotated

import typer

from consumer.cli.common import WRONG_USAGE, errors_shown, fail, stderr
from consumer.definitions import load_definitions
from consumer.election import new_instance_name
from consumer.settings import load_settings
from feeders.lake import Lake
from feeders.models import Model, below
from feeders.transform import rebuild_now

app = typer.Typer(no_args_is_help=True, help="The models.")


@app.callback()
def transform() -> None:
    """The models."""


@app.command()
def rebuild(
    *,
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL…]", help="All models if none is named.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Make models, and all below them, equal to their SELECT over the whole input. Readers see it at once."""
    with errors_shown():
        settings = load_settings()
        definitions = load_definitions(settings)
        wanted = chosen(definitions.models, models or [])
        lake = Lake(settings.lake(new_instance_name().replace("w-", "d-", 1)))
        started = time.monotonic()
        try:
            with stderr.status(f"rebuilding {len(wanted)} models"):
                runs = rebuild_now(lake, wanted)
        finally:
            lake.close()
    if as_json:
        typer.echo(
            json.dumps({run.model: {"rows": run.rows, "seconds": round(run.seconds, 3)} for run in runs})
        )
        return
    for run in runs:
        typer.echo(f"{run.model:<32} {run.rows:>10} rows {run.seconds:>8.2f} s")
    typer.echo(f"{len(runs)} models rebuilt in {time.monotonic() - started:.2f} s")


def chosen(models: tuple[Model, ...], names: list[str]) -> list[Model]:
    """The named models and all below them, in dependency order."""
    known = {model.name: model for model in models}
    unknown = [name for name in names if name not in known]
    if unknown:
        fail(f"no such model: {', '.join(unknown)}", WRONG_USAGE, hint=f"there are {', '.join(known)}")
    if not names:
        return list(models)
    affected = {model.name for model in below(models, [known[name].table for name in names])} | set(names)
    return [model for model in models if model.name in affected]
