"""A writer in a process of its own, which a test drives step by step, stops and lets run again."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, cast

import psycopg

from feeders.append import apply_batch
from feeders.epoch import Epoch
from feeders.errors import LakeConflict, LakeError
from feeders.lake import Lake, LakeConfig
from feeders.ledger import LedgerClock
from feeders.work import Load

_ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A step that raised: the name of the error's class, and its text."""

    kind: str
    text: str


class WriterProcess:
    """The process, for a `with` block. `tell` and `answer` in two steps let two processes run at once."""

    def __init__(self, config: LakeConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._theirs = theirs
        self._process = context.Process(target=_serve, args=(config, theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def tell(self, step: str, *arguments: object) -> None:
        """Orders a step, a method of `_Steps`."""
        self._pipe.send((step, arguments))

    def answer(self) -> object:
        """What the step that was told last returned, or `Failed`."""
        if not self._pipe.poll(_ANSWER_TIMEOUT_S):
            raise AssertionError(f"the writer's process did not answer within {_ANSWER_TIMEOUT_S:g} s")
        return self._pipe.recv()

    def ask(self, step: str, *arguments: object) -> object:
        """Both at once."""
        self.tell(step, *arguments)
        return self.answer()

    def pause(self) -> None:
        """Stops the process as a whole (SIGSTOP), as a suspended machine does."""
        os.kill(self._process.pid or 0, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it run again, unaware of the time in between."""
        os.kill(self._process.pid or 0, signal.SIGCONT)


def _serve(config: LakeConfig, pipe: Connection) -> None:
    steps = _Steps(config)
    while True:
        name, arguments = cast("tuple[str, Sequence[Any]]", pipe.recv())
        step: Callable[..., object] = getattr(steps, name)
        try:
            pipe.send(step(*arguments))
        except LakeError as error:
            pipe.send(Failed(kind=type(error).__name__, text=str(error)))


class _Steps:
    """What the process can be told to do."""

    def __init__(self, config: LakeConfig) -> None:
        self._config = config
        self._lake = Lake(config)
        self._clock = LedgerClock()
        self._open = ExitStack()
        self._conflicts = 0
        self._lock: psycopg.Connection[tuple[Any, ...]] | None = None

    def lock(self, key: int, idle_timeout_ms: int) -> None:
        """Takes the writer's advisory lock in a session that needs a heartbeat, and keeps it alive."""
        lock = self._config.catalog.connect(application="lotus-lake:lock")
        lock.execute("SELECT set_config('idle_session_timeout', %s, false)", (str(idle_timeout_ms),))
        lock.execute("SELECT pg_advisory_lock(%s)", (key,))
        self._lock = lock

        def beat() -> None:
            with contextlib.suppress(psycopg.Error):
                while not threading.Event().wait(idle_timeout_ms / 4000):
                    lock.execute("SELECT 1")

        threading.Thread(target=beat, daemon=True).start()

    def has_lock(self) -> bool:
        """Whether the session that took the lock still lives."""
        assert self._lock is not None
        try:
            self._lock.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def begin(self, epoch: Epoch, load: Load) -> str:
        """Opens a transaction and does all of a load but the COMMIT."""
        transaction = self._open.enter_context(self._lake.transaction("a load, step by step"))
        [applied] = apply_batch(transaction, [load], epoch=epoch, clock=self._clock, open_failures=set())
        return str(applied.outcome)

    def commit(self) -> str:
        """Commits what `begin` opened."""
        self._open.close()
        return "committed"

    def load(self, epoch: Epoch, load: Load) -> str:
        """A load in one go, tried again after a conflict as the writer does."""
        while True:
            try:
                with self._lake.transaction("a load") as transaction:
                    [applied] = apply_batch(
                        transaction, [load], epoch=epoch, clock=self._clock, open_failures=set()
                    )
            except LakeConflict:
                self._conflicts += 1
                continue
            return str(applied.outcome)

    def conflicts(self) -> int:
        """How often `load` was tried again."""
        return self._conflicts
