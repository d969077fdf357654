"""The `lotus-lake` command: one file for each subcommand, put together here.

Exit codes: 0 done; 1 it ran and the answer is no; 2 wrong usage or settings; 3 wrong environment.
"""

from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from consumer.cli import ddl, dead, transform
from consumer.cli.adopt import adopt
from consumer.cli.audit import audit
from consumer.cli.check import check
from consumer.cli.demo import demo
from consumer.cli.init import init
from consumer.cli.land import land
from consumer.cli.maintain import maintain
from consumer.cli.pause import pause, resume
from consumer.cli.replay import replay
from consumer.cli.run import run
from consumer.cli.status import status
from consumer.cli.sweep import sweep
from consumer.cli.up import up

app = typer.Typer(
    name="lotus-lake", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def show_version(wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted:
        typer.echo(f"lotus-lake {installed_version('lotus-lake')}")
        raise typer.Exit


@app.callback()
def lotus_lake(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Print the version.")
    ] = False,
) -> None:
    """Turns Parquet objects that land in S3 into fresh, exact tables."""


app.command()(run)
app.command()(up)
app.command()(land)
app.command()(demo)
app.command()(init)
app.command()(check)
app.command()(status)
app.command()(replay)
app.add_typer(dead.app, name="dead")
app.command()(pause)
app.command()(resume)
app.command()(sweep)
app.command()(audit)
app.command()(adopt)
app.command()(maintain)
app.add_typer(ddl.app, name="ddl")
app.add_typer(transform.app, name="transform")


def main() -> None:
    """Run the command line."""
    app()
