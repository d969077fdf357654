"""`lotus-lake ddl apply`: makes the lake's tables what `ddl/` says."""

import json
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from consumer.cli.common import errors_shown
from consumer.definitions import load_definitions
from consumer.election import new_instance_name
from consumer.settings import load_settings
from feeders.apply import TableChange, apply_ddl, preview_ddl
from feeders.ddl import render
from feeders.lake import Lake

app = typer.Typer(no_args_is_help=True, help="The lake's tables.")


@app.callback()
def ddl() -> None:
    """The lake's tables."""


@app.command()
def apply(
    *,
    dry_run: Annotated[bool, typer.Option(help="Only show what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Create what is missing, add missing columns at any level, widen types; refuse anything else."""
    with errors_shown():
        settings = load_settings()
        definitions = load_definitions(settings)
        lake = Lake(settings.lake(new_instance_name("d")))
        try:
            if dry_run:
                changes = preview_ddl(lake, definitions.tables)
            else:
                changes = apply_ddl(
                    lake, definitions.tables, definitions.streams, version=installed_version("lotus-lake")
                )
        finally:
            lake.close()
    show(changes, dry_run=dry_run, as_json=as_json)


def show(changes: list[TableChange], *, dry_run: bool, as_json: bool) -> None:
    """Prints what was, or would be, changed."""
    statements = [render(each.change, each.table) for each in changes]
    if as_json:
        typer.echo(json.dumps({"applied": not dry_run, "statements": statements}))
        return
    for each in changes:
        typer.echo(f"{type(each.change).__name__:<12} {each.table}")
    done = "would change" if dry_run else "changed"
    typer.echo(f"{len(changes)} statements {done}" if changes else "the lake's tables are what ddl/ says")
