"""`lotus-lake run` in a process that a file can kill, as a bug in C++ would: `python -m tests.killer FOLDER`.

It ends itself by SIGKILL when it checks a file that begins with KILLS. While it checks one whose footer has WAITS it
stands still until there is a file named "go" in FOLDER.
"""

import os
import signal
import sys
import time
from pathlib import Path

from consumer import key
from consumer.cli import app
from feeders.parquet import Footer, Limits, inspect

KILLS = b"PAR1 kills who reads it"
WAITS = b"waits while it is checked"


def main() -> None:
    """Makes the check dangerous and runs the consumer."""
    go = Path(sys.argv[1]) / "go"

    def dangerous(path: Path, limits: Limits) -> Footer:
        body = path.read_bytes()
        if body.startswith(KILLS):
            os.kill(os.getpid(), signal.SIGKILL)
        while WAITS in body and not go.exists():
            time.sleep(0.01)
        return inspect(path, limits)

    key.inspect = dangerous
    app(["run"])


if __name__ == "__main__":
    main()
