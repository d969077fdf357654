"""Reads of our own (sweep, status, benchmarks), in a DuckDB instance apart from the writer's."""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from feeders.lake import Lake, LakeError, Row

T = TypeVar("T")


class Queryable(Protocol):
    """A lake or an open transaction of it."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Runs one statement and returns its rows."""
        ...


class LakeReader:
    """Opens the lake when first asked, and again after an error. For one thread at a time; others wait."""

    def __init__(self, open_lake: Callable[[], Lake]) -> None:
        self._open_lake = open_lake
        self._lake: Lake | None = None
        self._lock = threading.Lock()

    def read(self, function: Callable[[Queryable], T]) -> T:
        """Runs a function of the lake. Raises LakeError; the next call opens the lake anew."""
        with self._lock:
            if self._lake is None:
                self._lake = self._open_lake()
            try:
                return function(self._lake)
            except LakeError:
                self._close()
                raise

    def close(self) -> None:
        """Closes the DuckDB instance, if there is one."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._lake is not None:
            self._lake.close()
            self._lake = None
