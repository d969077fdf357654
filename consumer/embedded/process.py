"""One server under supervision: started, awaited, paused, killed, stopped, started again."""

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from consumer.embedded import launch, procs
from consumer.embedded.errors import ServerDiedError, StackError
from consumer.embedded.folder import State
from consumer.embedded.procs import KILL_TIMEOUT_S, ProcessId, StopBy, end

_POLL_S = 0.02
_START_TIMEOUT_S = 60.0
_LOG_MAX_BYTES = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Account:
    """The unprivileged account that a server runs as when the supervisor is root."""

    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run, and as whom.

    `needs` are paths with the access (os.R_OK, …) that `account` must have to them. The kernel sends
    the death signal of `stop_by`, or else its signal, when the supervisor ends without a word.
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    stop_by: StopBy
    account: Account | None = None
    needs: tuple[tuple[Path, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """A program that serves: `ready` is asked every few milliseconds and says whether it answers."""

    program: Program
    ready: Callable[[], bool]
    clean_up: Callable[[], None] = lambda: None


class Launcher:
    """The one thread that starts servers.

    The kernel ties "signal me when my parent ends" to the parent's *thread*, so servers that were started by
    a short-lived thread would end with it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lotus-launcher")

    def start(self, what: Program, log: Path) -> subprocess.Popen[bytes]:
        """Starts a process in a session of its own: Ctrl-C at the terminal is the supervisor's alone."""
        order: launch.Order = {
            "argv": list(what.argv),
            "parent": os.getpid(),
            "death_signal": what.stop_by.death_signal or what.stop_by.signal,
            "uid": what.account.uid if what.account else None,
            "gid": what.account.gid if what.account else None,
            "needs": [{"path": str(path), "mode": mode} for path, mode in what.needs],
        }
        command = [sys.executable, "-I", "-S", str(Path(launch.__file__)), json.dumps(order)]

        def spawn() -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                return subprocess.Popen(
                    command,
                    cwd=what.cwd,
                    env=dict(what.env),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

        return self._thread.submit(spawn).result()

    def run_until(self, what: Program, log: Path, done: Callable[[], bool]) -> None:
        """Runs a program until `done`, then kills it.

        Raises:
            ServerDiedError: it ended by itself, or it took too long.
        """
        log_from = _size(log)
        popen = self.start(what, log)
        try:
            await_ready(Path(what.argv[0]).name, popen, done, threading.Event(), log, log_from)
        finally:
            popen.kill()
            popen.wait()

    def run(self, what: Program, log: Path) -> None:
        """Runs a program to its end.

        Raises:
            ServerDiedError: its exit status was not 0, or it took too long.
        """
        log_from = _size(log)
        popen = self.start(what, log)
        name = Path(what.argv[0]).name
        try:
            returncode = popen.wait(_START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ServerDiedError(f"{name} did not end in time", log, _output(log, log_from)) from None
        finally:
            if popen.returncode is None:
                popen.kill()
                popen.wait()
        if returncode != 0:
            raise ServerDiedError(f"{name} {_how(returncode)}", log, _output(log, log_from))

    def close(self) -> None:
        """Ends the thread; what it started and still runs is told to stop by the kernel."""
        self._thread.shutdown()


class Server:
    """One server process. All methods may be called from any thread."""

    def __init__(
        self, name: str, make: Callable[[], ServerSpec], *, log: Path, launcher: Launcher, state: State
    ) -> None:
        self.name = name
        self.log = log
        self._make = make
        self._launcher = launcher
        self._state = state
        self._lock = threading.RLock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._spec: ServerSpec | None = None

    @property
    def pid(self) -> int:
        """The process id, of the last process if the server is stopped."""
        if self._popen is None:
            raise StackError(f"{self.name} was never started")
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the process lives (paused counts)."""
        return self._popen is not None and self._popen.poll() is None

    def start(self, *, give_up: threading.Event | None = None) -> None:
        """Starts the server and returns when it answers.

        Raises:
            ServerDiedError: it ended or did not answer in time; it does not run.
        """
        with self._lock:
            if self.running:
                return
            self._spec = spec = self._make()
            self._shift_log()
            log_from = _size(self.log)
            self._popen = popen = self._launcher.start(spec.program, self.log)
            if (process := procs.identify(popen.pid)) is not None:
                self._state.started(self.name, process)
            try:
                await_ready(self.name, popen, spec.ready, give_up or threading.Event(), self.log, log_from)
            except BaseException:
                self.stop(timeout_s=2)
                raise

    def stop(self, *, timeout_s: float | None = None) -> None:
        """Asks the server to stop, and kills what is left after the deadline (default: the program's)."""
        with self._lock:
            if self._popen is None or self._spec is None:
                return
            stop_by = self._spec.program.stop_by
            end(self._tree(), stop_by if timeout_s is None else replace(stop_by, timeout_s=timeout_s))
            self._forget()

    def kill(self) -> None:
        """Ends the server and its children with SIGKILL, as a crash would; returns when they are gone."""
        with self._lock:
            # Stopped first, it starts no child that the tree does not have: a session of PostgreSQL that nobody has
            # greeted yet outlives it for a minute, and keeps the next server from starting.
            for process in self._tree()[:1]:
                procs.send(process, signal.SIGSTOP)
            end(self._tree(), StopBy(signal=signal.SIGKILL, timeout_s=KILL_TIMEOUT_S))
            self._forget()

    def restart(self) -> None:
        """Stops the server and starts it again on the same ports and data."""
        with self._lock:
            self.stop()
            self.start()

    def pause(self) -> None:
        """Stops the server and its children in their tracks (SIGSTOP): what is connected gets no answer."""
        for process in self._tree():
            procs.send(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused server go on (SIGCONT)."""
        for process in self._tree():
            procs.send(process, signal.SIGCONT)

    def _tree(self) -> tuple[ProcessId, ...]:
        process = procs.identify(self._popen.pid) if self._popen is not None and self.running else None
        return () if process is None else procs.tree(process)

    def _forget(self) -> None:
        if self._popen is not None:
            self._popen.wait(KILL_TIMEOUT_S)  # reaps it
        self._state.ended(self.name)
        if self._spec is not None:
            self._spec.clean_up()

    def _shift_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_MAX_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))


def await_ready(
    name: str,
    popen: subprocess.Popen[bytes],
    ready: Callable[[], bool],
    give_up: threading.Event,
    log: Path,
    log_from: int,
) -> None:
    """Returns when `ready` says so.

    Raises:
        ServerDiedError: the process ended, or the time ran out.
        StackError: `give_up` was set.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not ready():
        if popen.poll() is not None:
            raise ServerDiedError(
                f"{name} {_how(popen.returncode)} at its start", log, _output(log, log_from)
            )
        if time.monotonic() > deadline:
            reason = f"{name} did not answer within {_START_TIMEOUT_S:.0f} s"
            raise ServerDiedError(reason, log, _output(log, log_from))
        if give_up.wait(_POLL_S):
            raise StackError(f"the start of {name} was given up: another server failed, or a signal came")


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _output(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(max(start, _size(log) - 16_384))
        return file.read().decode(errors="replace")


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with status {returncode}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"was ended by signal {-returncode}"


def program(distribution: str, name: str) -> Path:
    """Returns the path of a program that a wheel installed.

    Raises:
        StackError: the wheel is not installed.
    """
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name and (path := Path(str(file.locate()))).is_file():
            return path.resolve()
    raise StackError(
        f"the program {name} of the package {distribution} is not installed: "
        "pip install 'lotus-lake[embedded]'"
    )
