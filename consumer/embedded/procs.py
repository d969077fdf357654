"""Processes told apart by pid *and* start, so that a pid the kernel gave to a stranger is never signalled."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from consumer.embedded.errors import StackError

KILL_TIMEOUT_S = 20.0
_POLL_S = 0.02
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """One process of this boot: `started` is the kernel's own start time with the boot's id."""

    pid: int
    started: str


@dataclass(frozen=True, kw_only=True)
class StopBy:
    """How a program is asked to stop, for how long before it is killed, and what ends it with its supervisor."""

    signal: Signals
    timeout_s: float
    death_signal: Signals | None = None


@dataclass(frozen=True, kw_only=True)
class _Row:
    id: ProcessId
    parent: int
    zombie: bool


def identify(pid: int) -> ProcessId | None:
    """Returns the identity of a running process, or None if there is none or it is a zombie."""
    row = _row(pid)
    return None if row is None or row.zombie else row.id


def is_running(process: ProcessId) -> bool:
    """Says whether this very process still runs."""
    return identify(process.pid) == process


def tree(root: ProcessId) -> tuple[ProcessId, ...]:
    """Returns the process, if it runs, and all of its running descendants, parents first."""
    children: dict[int, list[_Row]] = {}
    for row in _rows():
        children.setdefault(row.parent, []).append(row)
    found = [root] if is_running(root) else []
    for process in found:  # grows while it is walked
        found.extend(row.id for row in children.get(process.pid, ()) if not row.zombie)
    return tuple(found)


def send(process: ProcessId, signum: signal.Signals) -> None:
    """Signals this very process; does nothing if it has ended.

    Raises:
        PermissionError: it belongs to another user.
    """
    if sys.platform != "linux":
        if is_running(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signum)
        return
    try:
        handle = os.pidfd_open(process.pid)  # pins the process: no stranger can take its pid from here on
    except ProcessLookupError:
        return
    try:
        if is_running(process):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signum)
    finally:
        os.close(handle)


def end(processes: tuple[ProcessId, ...], stop_by: StopBy) -> None:
    """Ends a process tree, root first: the signal to the root, then SIGKILL to what is left after the deadline."""
    if not processes:
        return
    for process in processes if stop_by.signal is signal.SIGKILL else processes[:1]:
        send(process, stop_by.signal)
    for process in processes:
        send(process, signal.SIGCONT)  # a paused process would never see the signal
    if _gone(processes, stop_by.timeout_s):
        return
    for process in processes:
        for descendant in reversed(tree(process)):
            send(descendant, signal.SIGKILL)
    if not _gone(processes, KILL_TIMEOUT_S):
        left = ", ".join(str(process.pid) for process in processes if is_running(process))
        raise StackError(f"processes {left} did not end after SIGKILL (waiting for a disk?)")


def _gone(processes: tuple[ProcessId, ...], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        if not any(is_running(process) for process in processes):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)


@functools.cache
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _row(pid: int) -> _Row | None:
    if not _PROC.joinpath("self").exists():
        return next((row for row in _ps("-p", str(pid))), None)
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # "pid (name) state ppid …": the name may hold blanks and parentheses, so count from the last one.
    fields = stat[stat.rindex(")") + 2 :].split()
    return _Row(
        id=ProcessId(pid=pid, started=f"{fields[19]}@{_boot_id()}"),
        parent=int(fields[1]),
        zombie=fields[0] in "ZX",
    )


def _rows() -> Iterator[_Row]:
    if not _PROC.joinpath("self").exists():
        yield from _ps("-ax")
        return
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (row := _row(int(entry.name))) is not None:
            yield row


def _ps(*selection: str) -> Iterator[_Row]:
    """The same from ps, where there is no /proc (macOS)."""
    command = ["ps", *selection, "-o", "pid=,ppid=,stat=,lstart="]
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        pid, parent, state, started = line.split(maxsplit=3)
        yield _Row(id=ProcessId(pid=int(pid), started=started), parent=int(parent), zombie="Z" in state)
