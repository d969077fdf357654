"""The `lotus-lake` command: one file for each subcommand, put together here.

Exit codes: 0 done; 1 it ran and the answer is no; 2 wrong usage or settings; 3 wrong environment.
"""

import typer

app = typer.Typer(name="lotus-lake", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line."""
    app()
