"""The folder of a stack: who holds it, its ports, its secret, and the processes that it runs.

lock         held (flock) by the live supervisor; its text is the holder's pid
ports.json   the ports, kept for the next start
secret.json  the one secret that all passwords and keys derive from, mode 0600
state.json   the running servers by pid and start, for the supervisor that takes over after a kill -9
logs/        what each server prints; weed/ nats/ postgres/ are their data and settings
"""

import fcntl
import hashlib
import hmac
import json
import os
import random
import secrets
import socket
import threading
from pathlib import Path

from consumer.embedded.errors import FolderInUseError, StackError
from consumer.embedded.procs import ProcessId

# Below the ephemeral range of Linux (from 32768) and macOS (from 49152): a client that keeps reconnecting
# to a stopped server could otherwise be given the very port as its own, connect to itself, and keep the
# server from coming back.
_PORT_RANGE = range(20000, 32000)


class FolderLock:
    """The right to run servers in a folder, for as long as this process lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            FolderInUseError: a live supervisor has it.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise FolderInUseError(
                f"{self._path.parent} is in use by another supervisor (pid {holder}): stop that one first, "
                "or choose another folder"
            ) from None
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Gives the lock back; the file stays, since removing it would let two hold "the" lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Ports:
    """The stack's ports by name, such as "weed.s3"; picked once and kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str) -> int:
        """Returns the port of that name; picks a free one and keeps it if there is none yet."""
        with self._lock:
            if name not in self._ports:
                self._ports[name] = self._pick()
                self._write()
            return self._ports[name]

    def replace_taken(self, prefix: str) -> dict[str, tuple[int, int]]:
        """Picks new ports for those of a server that are taken; returns name → (old, new)."""
        return self._replace({name for name, port in self._of(prefix).items() if not _is_free(port)})

    def replace_all(self, prefix: str) -> dict[str, tuple[int, int]]:
        """Picks new ports for a server that could not bind its own; returns name → (old, new)."""
        return self._replace(set(self._of(prefix)))

    def _of(self, prefix: str) -> dict[str, int]:
        with self._lock:
            return {name: port for name, port in self._ports.items() if name.startswith(f"{prefix}.")}

    def _replace(self, names: set[str]) -> dict[str, tuple[int, int]]:
        with self._lock:
            changed = {name: (self._ports[name], self._pick()) for name in sorted(names)}
            self._ports |= {name: new for name, (_, new) in changed.items()}
            if changed:
                self._write()
            return changed

    def _pick(self) -> int:
        for _ in range(1000):
            port = random.choice(_PORT_RANGE)  # noqa: S311 (spreads stacks that start at once; no secret)
            if port not in self._ports.values() and _is_free(port):
                return port
        raise StackError(f"no free port on 127.0.0.1 between {_PORT_RANGE.start} and {_PORT_RANGE.stop - 1}")

    def _write(self) -> None:
        write_whole(self._path, json.dumps(self._ports, indent=2, sort_keys=True) + "\n", mode=0o644)


def _is_free(port: int) -> bool:
    # A socket file that a killed weed of ours left is removed before the start; another user's cannot be.
    if os.geteuid() != 0 and any(_owner(path) not in (None, os.geteuid()) for path in weed_sockets(port)):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None


def weed_sockets(port: int) -> tuple[Path, ...]:
    """Returns the UNIX sockets that weed makes beside a gRPC port, at a place that no option moves."""
    roles = ("master", "volume", "filer", "s3")
    return tuple(Path(f"/tmp/seaweedfs-{role}-grpc-{port}.sock") for role in roles)  # noqa: S108 (weed's choice)


class Secrets:
    """Every password and key of a stack, derived from one secret, so that they are stable across starts."""

    def __init__(self, path: Path, *, may_create: bool) -> None:
        if not path.exists():
            if not may_create:
                raise StackError(
                    f"{path} is missing, but {path.parent} holds data whose passwords derive from it: put "
                    "the file back, or choose an empty folder"
                )
            write_whole(path, json.dumps({"secret": secrets.token_hex(32)}) + "\n", mode=0o600)
        self._secret = bytes.fromhex(json.loads(path.read_text())["secret"])

    def derive(self, purpose: str) -> str:
        """Returns the 40 hexadecimal digits that belong to a purpose."""
        return hmac.new(self._secret, purpose.encode(), hashlib.sha256).hexdigest()[:40]


class State:
    """The running servers by name, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._running: dict[str, ProcessId] = {}

    def left_over(self) -> dict[str, ProcessId]:
        """Returns what an earlier supervisor wrote down and did not take back."""
        if not self._path.exists():
            return {}
        written: dict[str, dict[str, object]] = json.loads(self._path.read_text())
        return {
            name: ProcessId(pid=int(str(entry["pid"])), started=str(entry["started"]))
            for name, entry in written.items()
        }

    def clear(self) -> None:
        """Forgets what an earlier supervisor wrote down."""
        with self._lock:
            self._write()

    def started(self, name: str, process: ProcessId) -> None:
        """Writes a server down."""
        with self._lock:
            self._running[name] = process
            self._write()

    def ended(self, name: str) -> None:
        """Takes a server back."""
        with self._lock:
            self._running.pop(name, None)
            self._write()

    def _write(self) -> None:
        entries = {
            name: {"pid": process.pid, "started": process.started} for name, process in self._running.items()
        }
        write_whole(self._path, json.dumps(entries, indent=2) + "\n", mode=0o644)


def write_whole(path: Path, text: str, *, mode: int) -> None:
    """Replaces a file in one step; it never exists with wider rights than `mode`."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    temporary.replace(path)
