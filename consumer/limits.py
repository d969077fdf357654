"""What this process may use of the machine: memory, by its cgroups, and room for its spool.

Everything is read below a root folder, `/` but for tests. What can't be read limits nothing: the kernel and the
container's runtime decide which of these files there are.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_KIB = 1024
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How much memory this process may use, and whether a cgroup says so: else it is all of the machine's."""

    bytes: int
    is_of_cgroup: bool


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where a folder is: how much is free there, and whether what is written there takes memory."""

    free_bytes: int
    is_memory: bool


@dataclass(frozen=True, kw_only=True)
class _Mount:
    """A line of /proc/self/mountinfo; `root` is what of its file system is mounted."""

    root: PurePosixPath
    point: PurePosixPath
    kind: str
    options: frozenset[str]


def memory(root: Path = ROOT) -> Memory | None:
    """The least limit of this process's memory cgroups and of those above them, or else the machine's memory.

    Returns:
        None where nothing tells, as on a system without /proc.
    """
    machine = _machine_bytes(root)
    least = min(_cgroup_limits(root), default=None)
    if least is not None and (machine is None or least < machine):
        return Memory(bytes=least, is_of_cgroup=True)
    return None if machine is None else Memory(bytes=machine, is_of_cgroup=False)


def room(folder: Path, root: Path = ROOT) -> Room | None:
    """Where a folder is or will be made; None where nothing tells. `root` is not where the folder is looked for."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free_bytes = shutil.disk_usage(place).free
    except OSError:
        return None
    return Room(free_bytes=free_bytes, is_memory=is_memory(place.resolve(), root))


def is_memory(folder: Path, root: Path = ROOT) -> bool:
    """Whether a folder without links in its path is on a file system that takes memory."""
    holding = [mount for mount in _mounts(root) if folder.is_relative_to(mount.point)]
    # Of two at the same place the later one hides the other.
    return bool(holding) and max(enumerate(holding), key=_depth)[1].kind in _IN_MEMORY


def _depth(numbered: tuple[int, _Mount]) -> tuple[int, int]:
    number, mount = numbered
    return len(mount.point.parts), number


def _machine_bytes(root: Path) -> int | None:
    found = re.search(r"^MemTotal: +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * _KIB if found else None


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The limits of this process's cgroups and of all above them that it can see, of version 1 or 2 or both."""
    mounts = _mounts(root)
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        for mount in mounts:
            if number == "0" and mount.kind == "cgroup2":
                yield from _limits_up(root, mount, path, "memory.max")
            elif "memory" in controllers.split(",") and mount.kind == "cgroup" and "memory" in mount.options:
                yield from _limits_up(root, mount, path, "memory.limit_in_bytes")


def _limits_up(root: Path, mount: _Mount, path: str, name: str) -> Iterator[int]:
    folder = mount.point
    cgroup = PurePosixPath(path)
    # In a container the mount may begin at its own cgroup, and the path at the machine's or outside of what it sees.
    if cgroup.is_relative_to(mount.root) and ".." not in cgroup.parts:
        folder /= cgroup.relative_to(mount.root)
    while folder.is_relative_to(mount.point):
        text = _text(root / folder.relative_to("/") / name).strip()
        if text.isdecimal():
            yield int(text)
        if folder == mount.point:
            return
        folder = folder.parent


def _mounts(root: Path) -> list[_Mount]:
    """The file systems that this process sees, in the order in which they were mounted."""
    mounts: list[_Mount] = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        before, _, after = line.partition(" - ")
        with suppress(ValueError):
            *_, from_root, point = before.split(" ")[:5]
            kind, _, options = after.split(" ", 2)
            mounts.append(
                _Mount(
                    root=PurePosixPath(_unescaped(from_root)),
                    point=PurePosixPath(_unescaped(point)),
                    kind=kind,
                    options=frozenset(options.split(",")),
                )
            )
    return mounts


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
