"""What all commands share: exit statuses, and how an error is shown to a person."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console

from consumer.errors import LotusError, Misconfigured, SettingsError, Unavailable
from feeders.ddl import DdlRefused
from feeders.errors import LakeError, LakeMisconfigured, LakeUnavailable
from feeders.project import ProjectError

DONE, ANSWER_IS_NO, WRONG_USAGE, WRONG_ENVIRONMENT = 0, 1, 2, 3

stderr = Console(stderr=True, highlight=False)


def fail(message: str, status: int, *, hint: str | None = None) -> NoReturn:
    """Says what is wrong on standard error and ends the command."""
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"hint:  {hint}", err=True)
    raise typer.Exit(status)


@contextmanager
def errors_shown() -> Generator[None]:
    """Turns what a person can mend into a message and an exit status; a bug keeps its traceback."""
    try:
        yield
    except SettingsError as error:
        fail(str(error), WRONG_USAGE, hint=error.hint)
    except (Misconfigured, LakeMisconfigured) as error:
        fail(str(error), WRONG_ENVIRONMENT, hint=error.hint)
    except (DdlRefused, ProjectError) as error:
        fail(str(error), WRONG_ENVIRONMENT)
    except (Unavailable, LakeUnavailable) as error:
        fail(
            str(error),
            WRONG_ENVIRONMENT,
            hint=f"is {error.dependency} running, and are its address and port right?",
        )
    except (LotusError, LakeError) as error:
        fail(str(error), WRONG_ENVIRONMENT)
