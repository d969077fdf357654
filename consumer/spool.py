"""The spool: a bounded local folder for objects that are read, checked and waiting for the writer."""

import errno
import fcntl
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Self

from consumer.errors import Misconfigured, NeedsMending
from consumer.shares import Shares
from consumer.subjects import Queued
from feeders.schema import normalized_name

_PREFIX = "lotus-slot-"
_LOCK = "lotus-spool.lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Slot:
    """One object's room in the spool: its file, and a normalized copy beside it; both go at the block's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where the object's bytes go; the caller creates the file."""
        self.work_dir = path.parent

    def clear(self) -> None:
        """Removes its files. Two names, and no folder of its own: a folder takes 0.5 ms to make and remove."""
        self.path.unlink(missing_ok=True)
        (self.work_dir / normalized_name(self.path)).unlink(missing_ok=True)


class Spool:
    """Hands out room for objects, to one stream after the other. Owned by one event loop and one process.

    As a context manager it takes the folder for this process and removes what an earlier one left there.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self._room: Shares[Queued] = Shares(max_bytes)
        self._lock_fd: int | None = None
        self._numbers = count()

    @property
    def used_bytes(self) -> int:
        """How much of it is reserved."""
        return self._room.used

    def __enter__(self) -> Self:
        """Creates, locks and clears the folder.

        Raises:
            Misconfigured: the folder can't be used, or another process uses it.
        """
        hint = "set LOTUS_SPOOL_DIR to a folder that only this process uses, on a disk with room"
        if any(character in str(self.directory) for character in "*?[]{}"):
            # DuckDB reads a path as a pattern.
            raise Misconfigured(
                f"the spool's path {self.directory} has one of the characters *?[]{{}}", hint=hint
            )
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.directory.stat().st_uid not in (0, os.geteuid()):
                raise Misconfigured(f"the spool {self.directory} belongs to another user", hint=hint)
            self._lock_fd = os.open(
                self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in self.directory.glob(f"{_PREFIX}*"):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                else:
                    left.unlink()
        except BlockingIOError as error:
            self._unlock()
            raise Misconfigured(
                f"the spool {self.directory} is used by another process", hint=hint
            ) from error
        except OSError as error:
            self._unlock()
            raise Misconfigured(
                f"the spool {self.directory} can't be used: {error.strerror}", hint=hint
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    @asynccontextmanager
    async def reserve(self, size_bytes: int, *, of: Queued = None) -> AsyncGenerator[Slot, None]:
        """Waits until the bytes fit, and gives a slot for the block. A file larger than the spool goes alone.

        `of` says whose file it is: no stream gets all of the room, and none waits behind one that has its share.

        What the block writes beyond `size_bytes` (a normalized copy) is not counted: its holder could only wait
        for room that others hold, and they for his.

        Raises:
            NeedsMending: the disk is full, or the folder can't be used; also for what the block itself meets there.
        """
        async with self._room.held(of, size_bytes):
            slot = Slot(self.directory / f"{_PREFIX}{next(self._numbers)}.parquet")
            try:
                yield slot
            except OSError as error:
                if error.errno is None:
                    raise  # not of the system: what a library says of the file
                hint = f"look at the disk and the rights of {self.directory}"
                if error.errno in _NO_ROOM:
                    hint = f"free space on the disk of {self.directory}, or lower LOTUS_SPOOL_MAX_BYTES"
                what = f"{os.strerror(error.errno)} in {self.directory}"
                raise NeedsMending("spool", what, hint=hint) from error
            finally:
                with suppress(OSError):
                    slot.clear()
