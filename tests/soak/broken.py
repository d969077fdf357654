"""`lotus-lake run` with a fault that a soak has to notice: `pytest tests/soak --soak-fault=FAULT`.

`descriptors`, `threads` and `memory` lose one of them, or 256 KiB, with every COMMIT. `rows` forgets those of one file
in a hundred, of which ledger and cursor say that it is loaded.
"""

import itertools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from consumer.cli import app
from feeders import append, fault
from feeders.lake import Transaction
from feeders.work import Load

LOST_BYTES = 256 * 1024
ONE_FILE_OF = 100
_kept: list[bytes] = []


def lose_a_descriptor() -> None:
    """Opens a pipe, one end of which nobody closes."""
    os.close(os.pipe()[1])


def lose_a_thread() -> None:
    """Starts a thread that waits for ever."""
    threading.Thread(target=wait_for_ever, daemon=True).start()


def wait_for_ever() -> NoReturn:
    """Waits."""
    while True:
        threading.Event().wait()


def lose_memory() -> None:
    """Keeps some bytes for ever."""
    _kept.append(os.urandom(LOST_BYTES))


LEAKS: dict[str, Callable[[], None]] = {
    "descriptors": lose_a_descriptor,
    "threads": lose_a_thread,
    "memory": lose_memory,
}


def main() -> None:
    """Arms the fault and runs the consumer."""
    name = sys.argv[1]
    if name == "rows":
        append.insert_rows = forgetful(append.insert_rows)
    else:
        leak = LEAKS[name]
        fault.arm(lambda point: leak() if point == "committed" else None)
    app(["run"])


def forgetful(
    insert_rows: Callable[[Transaction, Sequence[Load]], None],
) -> Callable[[Transaction, Sequence[Load]], None]:
    """An `insert_rows` that leaves out one file in a hundred."""
    numbers = itertools.count()

    def insert_most_rows(transaction: Transaction, loads: Sequence[Load]) -> None:
        insert_rows(transaction, [load for load in loads if next(numbers) % ONE_FILE_OF != ONE_FILE_OF - 1])

    return insert_most_rows


if __name__ == "__main__":
    main()
