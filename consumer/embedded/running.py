"""What another process may know of a stack that runs in a folder: where it answers, and Airbyte's identity."""

import json
from dataclasses import dataclass
from pathlib import Path

from consumer.embedded import procs
from consumer.embedded.errors import StackError
from consumer.embedded.folder import Secrets, State
from consumer.embedded.identity import S3Identity
from consumer.embedded.weed import S3Identities


@dataclass(frozen=True, kw_only=True)
class RunningStack:
    """The S3 of a running stack, and the identity that lands objects there."""

    s3_url: str
    lander: S3Identity


def read_running(folder: Path) -> RunningStack:
    """Reads the folder of a stack that another process runs; takes nothing and changes nothing.

    Raises:
        StackError: no stack runs there, or its folder is not ours to read.
    """
    try:
        weed = State(folder / "state.json").left_over().get("weed")
        if weed is None or not procs.is_running(weed):
            raise StackError(f"no stack runs in {folder}: start one with `lotus-lake up --dir {folder}`")
        ports: dict[str, int] = json.loads((folder / "ports.json").read_text())
        secrets = Secrets(folder / "secret.json", may_create=False)
    except OSError as error:
        message = f"{folder} can't be read: {error.strerror}; only the user who runs the stack can use it"
        raise StackError(message) from error
    return RunningStack(
        s3_url=f"http://127.0.0.1:{ports['weed.s3']}", lander=S3Identities.derive(secrets).lander
    )
