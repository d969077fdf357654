"""`lotus-lake run` in a process that ends or stops itself at a point of the walk: `armed.py SIGNAL POINT N [AFTER]`.

It sends itself SIGNAL (SIGKILL, SIGSTOP) at the N-th time that it passes POINT; with AFTER only passes that follow
the first pass of that point count, so that the COMMIT of a batch is told from that of the DDL before it. With
`late` in the place of N it is the first pass after a SIGUSR1, which it answers with "armed" on standard error; POINT
may then be several with commas between, of which each SIGUSR1 takes the next.
"""

import os
import signal
import sys
import threading
from itertools import cycle

from consumer.cli import app
from feeders import fault

LATE = "late"
LISTENS = "listens for SIGUSR1"
ARMED = "armed"


def main() -> None:
    """Arms the points and runs the consumer."""
    name_of_signal, points, passes, *after = sys.argv[1:]
    number = signal.Signals[name_of_signal]
    lock = threading.Lock()
    turns = cycle(points.split(","))
    point, left = points, 0
    waits = bool(after)

    def hook(name: str) -> None:
        nonlocal left, waits
        with lock:
            waits = waits and name not in after
            strikes = name == point and not waits and left == 1
            left -= name == point and not waits
        if strikes:
            os.kill(os.getpid(), number)

    def arm(passes: int) -> None:
        nonlocal left, point, waits
        point, left, waits = next(turns), passes, bool(after)
        fault.arm(hook)

    def arm_late(*_: object) -> None:
        arm(1)
        os.write(2, f"{ARMED} {point}\n".encode())

    if passes == LATE:
        signal.signal(signal.SIGUSR1, arm_late)
        os.write(2, f"{LISTENS}\n".encode())
    else:
        arm(int(passes))
    app(["run"])


if __name__ == "__main__":
    main()
