"""`lotus-lake run` in a process that ends or stops itself at a point of the walk: `armed.py SIGNAL POINT N [AFTER]`.

It sends itself SIGNAL (SIGKILL, SIGSTOP) at the N-th time that it passes POINT; with AFTER only passes that follow
the first pass of that point count, so that the COMMIT of a batch is told from that of the DDL before it.
"""

import os
import signal
import sys
import threading

from consumer.cli import app
from feeders import fault


def main() -> None:
    """Arms the points and runs the consumer."""
    name_of_signal, point, passes, *after = sys.argv[1:]
    number = signal.Signals[name_of_signal]
    lock = threading.Lock()
    left = int(passes)
    waits = bool(after)

    def hook(name: str) -> None:
        nonlocal left, waits
        with lock:
            waits = waits and name not in after
            counts = name == point and not waits
            left -= counts
            if counts and left == 0:
                os.kill(os.getpid(), number)

    fault.arm(hook)
    app(["run"])


if __name__ == "__main__":
    main()
