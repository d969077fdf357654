"""The `lotus-lake` command: one file for each subcommand, put together here.

Exit codes: 0 done; 1 it ran and the answer is no; 2 wrong usage or settings; 3 wrong environment.
"""

import typer

from consumer.cli import ddl, transform
from consumer.cli.check import check
from consumer.cli.demo import demo
from consumer.cli.land import land
from consumer.cli.run import run
from consumer.cli.up import up

app = typer.Typer(
    name="lotus-lake", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.command()(run)
app.command()(up)
app.command()(land)
app.command()(demo)
app.command()(check)
app.add_typer(ddl.app, name="ddl")
app.add_typer(transform.app, name="transform")


def main() -> None:
    """Run the command line."""
    app()
