"""`lotus-lake init`: a project folder of one's own, to start from."""

import json
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.common import WRONG_USAGE, errors_shown, fail
from feeders.project import ProjectFolderRefused, copy_project, find_project


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is empty or not there yet.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Copy our ddl/ and transforms/ into a folder to start from, for LOTUS_PROJECT_DIR. Needs no server."""
    with errors_shown():
        try:
            files = copy_project(find_project(None), folder)
        except ProjectFolderRefused as error:
            fail(str(error), WRONG_USAGE, hint=error.hint)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder.absolute()), "files": [str(path) for path in files]}))
        return
    typer.echo(f"{len(files)} files in {folder}")
    typer.echo(f"next: export LOTUS_PROJECT_DIR={folder.absolute()}; lotus-lake transform check")
