"""`lotus-lake run` in a process that ends or stops itself at a point of the walk: `armed.py SIGNAL POINT N [AFTER]`.

It sends itself SIGNAL (SIGKILL, SIGSTOP) at the N-th time that it passes POINT; with AFTER only passes that follow
the first pass of that point count, so that the COMMIT of a batch is told from that of the DDL before it. With
LATE in the place of N it is the first pass after a SIGUSR1, which it answers with "armed" on standard error.
"""

import os
import signal
import sys
import threading

from consumer.cli import app
from feeders import fault

LATE = "late"
ARMED = "armed"


def main() -> None:
    """Arms the points and runs the consumer."""
    name_of_signal, point, passes, *after = sys.argv[1:]
    number = signal.Signals[name_of_signal]
    lock = threading.Lock()
    left = 1 if passes == LATE else int(passes)
    waits = bool(after)

    def hook(name: str) -> None:
        nonlocal left, waits
        with lock:
            waits = waits and name not in after
            counts = name == point and not waits
            left -= counts
            if counts and left == 0:
                os.kill(os.getpid(), number)

    def arm(*_: object) -> None:
        fault.arm(hook)
        os.write(2, f"{ARMED}\n".encode())

    if passes == LATE:
        signal.signal(signal.SIGUSR1, arm)
    else:
        fault.arm(hook)
    app(["run"])


if __name__ == "__main__":
    main()
