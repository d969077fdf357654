"""`lotus-lake transform`: the models."""

import json
import time
from dataclasses import replace
from typing import Annotated

import typer
from rich.progress import track

from consumer.cli.common import ANSWER_IS_NO, WRONG_ENVIRONMENT, WRONG_USAGE, errors_shown, fail, stderr
from consumer.cli.model_tests import run_one, up_to_date
from consumer.definitions import load_definitions
from consumer.election import new_instance_name
from consumer.settings import load_project_settings, load_settings
from feeders.lake import Lake
from feeders.model_check import check_models
from feeders.models import Model, below
from feeders.project import SqlFileError
from feeders.rebuild_by_hand import rebuild_now

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
    changed: Annotated[
        bool,
        typer.Option(
            "--changed", help="Also models whose file is not the one that the lake's table is made of."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Make models, and all below them, equal to their SELECT over the whole input. Readers see it at once.

    Refused with status 3 where the service runs another file than this project has: its next run would undo it.
    """
    with errors_shown():
        settings = load_settings()
        definitions = load_definitions(settings)
        wanted = chosen(definitions.models, models or [])
        config = replace(settings.lake(new_instance_name("d")), may_create=False)
        lake = Lake(config)
        started = time.monotonic()
        try:
            if not changed:
                refuse_other_files(lake, wanted)
            with stderr.status(f"rebuilding {len(wanted)} models"):
                runs = rebuild_now(lake, wanted, may_leave=not changed)
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


@app.command()
def check(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Bind all models, maps, restricts and checks to the tables of ddl/. Needs no server; status 1 if one is wrong."""
    with errors_shown():
        settings = load_project_settings()
        try:
            definitions = load_definitions(settings)
        except SqlFileError as error:
            if as_json:
                typer.echo(json.dumps({"models": None, "checks": None, "wrong": [wrong_of(error)]}))
            else:
                stderr.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(ANSWER_IS_NO) from None
        errors = check_models(definitions.models, definitions.tables, definitions.checks)
    if as_json:
        counts = {"models": len(definitions.models), "checks": len(definitions.checks)}
        typer.echo(json.dumps({**counts, "wrong": [wrong_of(each) for each in errors]}))
    else:
        for each in errors:
            stderr.print(str(each), style="red", markup=False, highlight=False, soft_wrap=True)
        typer.echo(
            f"{len(definitions.models)} models and {len(definitions.checks)} checks, {len(errors)} wrong"
        )
    raise typer.Exit(1 if errors else 0)


def wrong_of(error: SqlFileError) -> dict[str, object]:
    """What is wrong with a file, for --json."""
    return {"file": str(error.path), "line": error.line, "what": error.what}


@app.command("test")
def run_tests(
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME…]", help="Of models and checks; all if none is named."),
    ] = None,
    keys: Annotated[
        int,
        typer.Option(min=1, help="So many keys of a model, and rows of each of its inputs, are its sample."),
    ] = 1000,
    rows: Annotated[int, typer.Option(min=0, help="Show so many of the rows that a check returns.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, without rows.")
    ] = False,
) -> None:
    """Run the checks of transforms/checks/, and hold a sample of each model against its SELECT.

    Both in a snapshot in which the models are up to date, so that it makes no difference what lands meanwhile.
    Status 1 if a model is wrong or held back, or a check of severity error returned rows.
    """
    with errors_shown():
        settings = load_settings()
        definitions = load_definitions(settings)
        known = {each.name: each for each in (*definitions.models, *definitions.checks)}
        chosen_names = [name.removeprefix("main.") for name in names or known]
        if unknown := [name for name in chosen_names if name not in known]:
            hint = f"there are {', '.join(known)}"
            fail(f"no such check or model: {', '.join(unknown)}", WRONG_USAGE, hint=hint)
        wanted = [known[name] for name in dict.fromkeys(chosen_names)]
        with up_to_date(settings, definitions) as (lake, held_back):
            tested = [
                run_one(lake, what, held_back, sample=keys, examples=0 if as_json else rows)
                for what in track(
                    wanted,
                    description="testing",
                    console=stderr,
                    transient=True,
                    disable=not stderr.is_terminal,
                )
            ]
    if as_json:
        typer.echo(json.dumps({"tested": [each.as_json() for each in tested]}))
    else:
        for each in tested:
            each.show()
        typer.echo(f"{len(tested)} tested, {sum(each.is_bad for each in tested)} wrong")
    raise typer.Exit(1 if any(each.is_bad for each in tested) else 0)


@app.command()
def graph(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show what each model reads, in the order in which they run."""
    with errors_shown():
        models = load_definitions(load_project_settings()).models
    if as_json:
        typer.echo(json.dumps({model.table: [each.table for each in model.inputs] for model in models}))
        return
    for model in models:
        typer.echo(f"{model.table}  (one row for each {model.key})")
        for each in model.inputs:
            typer.echo(f"  ← {each.table}")


def refuse_other_files(lake: Lake, models: list[Model]) -> None:
    """Ends the command if the lake's table of one of these models is made of another file."""
    made = dict(lake.query("SELECT model, max(model_hash) FROM meta.transform_cursors GROUP BY model"))
    others = [model for model in models if made.get(model.name, model.sql_hash) != model.sql_hash]
    if others:
        fail(
            f"in the lake {', '.join(model.name for model in others)} is made of another file than {others[0].path}",
            WRONG_ENVIRONMENT,
            hint="set LOTUS_PROJECT_DIR as the service has it; a changed file comes by a restart of the service with"
            " it, or without a service by --changed",
        )


def chosen(models: tuple[Model, ...], names: list[str]) -> list[Model]:
    """The named models and all below them, in dependency order."""
    known = {model.name: model for model in models}
    names = [name.removeprefix("main.") for name in names]
    unknown = [name for name in names if name not in known]
    if unknown:
        fail(f"no such model: {', '.join(unknown)}", WRONG_USAGE, hint=f"there are {', '.join(known)}")
    if not names:
        return list(models)
    affected = {model.name for model in below(models, [known[name].table for name in names])} | set(names)
    return [model for model in models if model.name in affected]
