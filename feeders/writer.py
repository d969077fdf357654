"""The one thread that writes the lake: group commit, halving, and the transforms after a commit.

Work is taken of one stream after the other, and of each in the order in which it was submitted, as much as is ready
and fits the limits: of many large files of one stream a file of another waits for one batch. The writer never waits
for more. A batch whose statements fail is halved until the bad item is alone, so the good ones commit.
"""

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from feeders.append import apply_batch, key_of
from feeders.duties import Duty, FollowUp, Tried, Upkeep
from feeders.epoch import Epoch, require_epoch
from feeders.failures import Failure
from feeders.lake import (
    Lake,
    LakeConflict,
    LakeError,
    LakeFenced,
    LakeUnavailable,
    StatementFailed,
    Transaction,
)
from feeders.landings import Landing
from feeders.ledger import LedgerClock
from feeders.line import Line
from feeders.streams import StreamId
from feeders.work import Applied, ClaimCheck, ClaimLost, Load, Outcome, Result, Work

T = TypeVar("T")

MAX_CONFLICTS = 5
REOPEN_AFTER_COMMITS = 1000
"""A DuckDB instance keeps 0.05 to 0.1 MiB for each commit, and gives all of it back when it is closed
(docs/performance.md). Opening another takes a quarter of a second, so it is done when no work waits; where work always
waits, after twice as many."""
BACKLOG_KEYS = 32
LOOK_EVERY_S = 0.02


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """How much one transaction takes at most; a single item above a limit goes alone.

    `linger_s` is how long it waits at most in a backlog, while more keys are on their way than it has: a commit takes
    about as much of the machine as reading 20 small files, which the next keys need.
    """

    files: int = 200
    rows: int = 1_000_000
    bytes: int = 256 * 1024**2
    min_interval_s: float = 0.0
    linger_s: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A submitted work item and the future that its result goes to."""

    work: Work
    is_claimed: ClaimCheck
    isolated: bool = False
    future: "Future[Result]" = field(default_factory=Future["Result"])
    submitted_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class _Call:
    function: Callable[[Lake], Any]
    future: "Future[Any]"


class Writer:
    """Owns the lake's writing thread for one term.

    A LakeFenced, or an error that this class does not know, ends the term: `ended` gets it as its exception,
    every waiting future fails with it, and nothing is written any more.
    """

    def __init__(
        self,
        open_lake: Callable[[], Lake],
        *,
        epoch: Epoch,
        limits: BatchLimits,
        follow_up: FollowUp | None = None,
        upkeep: Upkeep | None = None,
        proof: Duty | None = None,
        lake: Lake | None = None,
        committed: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._open_lake = open_lake
        self._committed = committed
        self._epoch = epoch
        self._limits = limits
        self._follow_up = follow_up
        self._upkeep = upkeep
        # In this order: what people wait for goes first.
        self._duties = (
            *([Tried(follow_up)] if follow_up else []),
            *([Tried(upkeep)] if upkeep else []),
            *([Tried(proof)] if proof else []),
        )
        self.keys_in_work = 0
        """How many keys are on their way here, or wait for their result; set from any thread."""
        self._queue: queue.SimpleQueue[Pending | _Call | None] = queue.SimpleQueue()
        self._held: deque[Pending | _Call] = deque()
        self._line: Line[object, Pending | _Call] = Line()
        self._lake = lake
        self._clock = LedgerClock()
        self._open_failures: set[tuple[str, str]] = set()
        self._has_open_failures = False
        self._last_commit = -math.inf  # not 0: the clock may count from the machine's start, an hour ago
        self._commits = 0
        self._wake = threading.Event()
        self._closing = False
        self.ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="lake-writer", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        # Running futures can't be cancelled: whoever awaits `ended` may give up, the thread must not notice.
        self.ended.set_running_or_notify_cancel()
        self._thread.start()

    def submit(
        self, work: Work, *, is_claimed: ClaimCheck = lambda: True, isolated: bool = False
    ) -> "Future[Result]":
        """Queues a work item. Its future resolves after the COMMIT, or fails with ClaimLost or a LakeError.

        With `isolated` it gets a transaction of its own: one that failed before would only have others tried again.
        """
        pending = Pending(work=work, is_claimed=is_claimed, isolated=isolated)
        self._queue.put(pending)
        self._refuse_after_end()
        return pending.future

    def call(self, function: Callable[[Lake], T]) -> "Future[T]":
        """Runs a function of the lake on the writer's thread, between two batches."""
        future: Future[T] = Future()
        self._queue.put(_Call(function=function, future=future))
        self._refuse_after_end()
        return future

    def transact(
        self, message: str, function: Callable[[Transaction], T], *, moves: Sequence[StreamId] = ()
    ) -> "Future[T]":
        """Runs a function in a transaction of its own, of this term, between two batches.

        `moves` are the streams whose cursors it replaces: their models follow.

        Its future fails with a LakeError; then nothing was committed, but see `Lake.transaction`.
        """

        def run(lake: Lake) -> T:
            for attempt in range(1, MAX_CONFLICTS + 1):
                try:
                    with lake.transaction(message) as transaction:
                        require_epoch(transaction, self._epoch)
                        self._load_open_failures(lake)
                        result = function(transaction)
                    if moves and self._follow_up is not None:
                        self._follow_up.changed(moves)
                    return result
                except LakeConflict:
                    if attempt == MAX_CONFLICTS:
                        raise
            raise AssertionError("unreachable")

        return self.call(run)

    def may_have_failed(self, bucket: str, key: str) -> bool:
        """Says whether this key has an open dead letter, or nothing was read yet that would tell. From any thread."""
        return not self._has_open_failures or (bucket, key) in self._open_failures

    def close(self, timeout_s: float | None = None) -> bool:
        """Finishes what was submitted, then stops the thread. Returns whether it stopped in time."""
        self._queue.put(None)
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- on the writer's thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            try:
                while not self._closing or self._held or self._line:
                    self._step()
            finally:
                self._held.extend(self._line.drain())  # any thread may refuse it from the end on
        except BaseException as error:  # noqa: BLE001 - whatever ends the term must reach every waiting future
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)
        finally:
            self._refuse_after_end()
            if self._lake is not None:
                self._lake.close()

    def _step(self) -> None:
        item = self._next(self._wait_s())
        match item:
            case None:
                pass
            case _Call():
                self._run_call(item)
            case Pending():
                # Held meanwhile: what the pause runs may end the term.
                self._held.appendleft(item)
                self._pause_between_commits()
                self._held.popleft()
                self._commit_or_refuse(self._begin(self._take(item)))
        self._run_due(idle=self._is_idle)
        if self._commits >= (1 if self._is_idle else 2) * REOPEN_AFTER_COMMITS:
            self._drop_lake()

    @property
    def _is_idle(self) -> bool:
        return self._queue.empty() and not self._held and not self._line

    def _wait_s(self) -> float | None:
        return least(duty.due_in(idle=self._is_idle) for duty in self._duties)

    def _run_due(self, *, idle: bool) -> None:
        """Runs the first duty that is due, if there is one."""
        for duty in self._duties if not self._closing else ():
            if duty.due_in(idle=idle) == 0:
                duty.run(self._opened, self._epoch, drop=self._drop_lake)
                return

    def _next(self, timeout_s: float | None, but: Container[object] = ()) -> Pending | _Call | None:
        if self._held:
            return self._held.popleft()
        self._line_up(0)
        if not self._line and timeout_s != 0 and not self._closing:
            self._line_up(timeout_s)
        return self._line.take(but)

    def _line_up(self, timeout_s: float | None) -> None:
        """Puts what was submitted meanwhile into the line, or the first that comes within a time, None for any."""
        with suppress(queue.Empty):
            while not self._closing:
                item = self._queue.get(timeout=timeout_s) if timeout_s != 0 else self._queue.get_nowait()
                timeout_s = 0
                if item is None:
                    self._closing = True
                else:
                    self._line.put(_whose(item), item)

    def _take(self, first: Pending) -> list[Pending]:
        """Fills a batch. What goes alone waits for the next step, those behind it too, and the others' go on."""
        aside: dict[object, Pending | _Call] = {}
        batch, keys = [first], {_key(first.work)}
        files, rows, size = 1, _rows(first.work), _bytes(first.work)
        linger_until = time.monotonic() + self._limits.linger_s
        while files < self._limits.files and not first.isolated:
            item = self._next(0, aside) or (None if aside else self._linger(files, linger_until))
            if item is None:
                break
            if isinstance(item, _Call) or item.isolated:
                aside[_whose(item)] = item
                continue
            if (
                rows + _rows(item.work) > self._limits.rows
                or size + _bytes(item.work) > self._limits.bytes
                or _key(item.work) in keys
            ):
                aside[_whose(item)] = item
                break
            batch.append(item)
            keys.add(_key(item.work))
            files, rows, size = files + 1, rows + _rows(item.work), size + _bytes(item.work)
        self._held.extend(aside.values())
        return batch

    def _linger(self, files: int, until: float) -> Pending | _Call | None:
        """Waits for one more item while a backlog has more on their way than are in the batch; not beyond `until`."""
        while not self._closing and (left := until - time.monotonic()) > 0:
            if self.keys_in_work < BACKLOG_KEYS or files >= self.keys_in_work - files:
                break
            if (item := self._next(min(left, LOOK_EVERY_S))) is not None:
                return item
        return None

    def _pause_between_commits(self) -> None:
        """Waits until the next commit is due; the models go on meanwhile, and `close` ends the wait."""
        while not self._wake.is_set():
            pause = self._last_commit + self._limits.min_interval_s - time.monotonic()
            if pause <= 0:
                return
            due = least(duty.due_in(idle=True) for duty in self._duties)
            if due == 0:
                self._run_due(idle=True)
            else:
                self._wake.wait(pause if due is None else min(pause, due))

    def _run_call(self, call: _Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            call.future.set_result(call.function(self._opened()))
        except LakeFenced as error:
            call.future.set_exception(error)
            raise
        except Exception as error:  # noqa: BLE001 - the caller gets it through its future
            if isinstance(error, LakeUnavailable) or (
                isinstance(error, StatementFailed) and error.invalidates_instance
            ):
                self._drop_lake()
            call.future.set_exception(error)

    def _begin(self, batch: Iterable[Pending]) -> list[Pending]:
        """Keeps the items that are still wanted: from here on nobody can cancel them."""
        claimed: list[Pending] = []
        for item in batch:
            if not item.future.set_running_or_notify_cancel():
                continue
            if _is_claimed(item):
                claimed.append(item)
        return claimed

    def _commit_or_refuse(self, claimed: Sequence[Pending]) -> None:
        try:
            self._commit(claimed)
        except BaseException:
            # The term ends; of a batch that was halved some may have their results already.
            _fail([item for item in claimed if not item.future.done()], LakeFenced("the writer has ended"))
            raise

    def _commit(self, claimed: Sequence[Pending]) -> None:
        if not claimed:
            return
        started = time.monotonic()
        try:
            results = self._transact([item.work for item in claimed])
        except StatementFailed as error:
            self._halve(claimed, error)
            return
        except LakeFenced:
            raise
        except LakeError as error:
            self._drop_lake()
            _fail(claimed, error)
            return
        self._last_commit = time.monotonic()
        self._commits += 1
        self._committed(self._last_commit - started)
        if self._upkeep is not None:
            self._upkeep.committed()
        for item, result in zip(claimed, results, strict=True):
            item.future.set_result(
                Result(
                    applied=result,
                    batch_items=len(claimed),
                    queue_s=started - item.submitted_at,
                    commit_s=self._last_commit - started,
                )
            )

    def _halve(self, batch: Sequence[Pending], error: StatementFailed) -> None:
        if error.invalidates_instance:
            self._drop_lake()
        if len(batch) == 1:
            _fail(batch, error)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            # The halves before it may have taken long.
            self._commit([item for item in half if _is_claimed(item)])

    def _transact(self, works: list[Work]) -> tuple[Applied, ...]:
        for attempt in range(1, MAX_CONFLICTS + 1):
            lake = self._opened()
            try:
                with lake.transaction(f"{len(works)} items") as transaction:
                    self._load_open_failures(lake)
                    results = apply_batch(
                        transaction,
                        works,
                        epoch=self._epoch,
                        clock=self._clock,
                        open_failures=self._open_failures,
                    )
            except LakeConflict:
                # Someone else's DML on our tables, or the next writer: the epoch, read again, tells which.
                if attempt == MAX_CONFLICTS:
                    raise
                continue
            self._note(works, results)
            return results
        raise AssertionError("unreachable")

    def _load_open_failures(self, lake: Lake) -> None:
        if not self._has_open_failures:
            self._open_failures = read_open_failures(lake)
            self._has_open_failures = True

    def _note(self, works: Sequence[Work], results: Sequence[Applied]) -> None:
        streams: set[StreamId] = set()
        landings: list[Landing] = []
        for work, result in zip(works, results, strict=True):
            if isinstance(work, Failure):
                if work.bucket is not None and work.key is not None:
                    self._open_failures.add((work.bucket, work.key))
                continue
            self._open_failures.discard(key_of(work))
            if result.outcome not in (Outcome.DUPLICATE, Outcome.ABSENT):
                streams.add(work.stream.id)
            if isinstance(work, Load) and result.outcome in (Outcome.LOADED, Outcome.REPLACED):
                at = work.version.last_modified
                landings += [Landing(stream=work.stream.id, at=at)] if at else []
        if streams and self._follow_up is not None:
            self._follow_up.changed(streams, landings)

    def _opened(self) -> Lake:
        if self._lake is None:
            lake = self._open_lake()
            try:
                # A COMMIT whose outcome stayed unknown may have been applied: its keys come again as duplicates,
                # which change nothing, so what it changed is found here.
                if self._follow_up is not None:
                    self._follow_up.load_behind(lake)
            except StatementFailed as error:
                lake.close()
                raise LakeUnavailable("postgresql", f"the lake opened, but can't be read: {error}") from error
            except BaseException:
                lake.close()
                raise
            self._has_open_failures = False
            self._commits = 0
            self._lake = lake
        return self._lake

    def _drop_lake(self) -> None:
        if self._lake is not None:
            self._lake.close()
            self._lake = None

    def _refuse_after_end(self) -> None:
        """Fails whatever was or is submitted too late. From any thread; does nothing before the end."""
        if not self.ended.done():
            return
        error = LakeFenced("the writer has ended")
        while True:
            try:
                item = self._held.popleft() if self._held else self._queue.get_nowait()
            except (queue.Empty, IndexError):
                return
            if item is not None and item.future.set_running_or_notify_cancel():
                item.future.set_exception(error)


def read_open_failures(lake: Lake) -> set[tuple[str, str]]:
    """Reads which (bucket, key) have an open dead letter; the writer then keeps the set by itself."""
    rows = lake.query("SELECT DISTINCT bucket, key FROM meta.feeder_failures WHERE resolved_at IS NULL")
    return {(bucket, key) for bucket, key in rows if bucket is not None and key is not None}


def _is_claimed(item: Pending) -> bool:
    """Says whether an item is still its worker's; fails its future if not."""
    if item.is_claimed():
        return True
    item.future.set_exception(ClaimLost("the claim ended while the key waited for the writer"))
    return False


def _whose(item: Pending | _Call) -> object:
    """In whose turn an item is taken: its stream's, that of replays, or that of who asks something of the lake."""
    if isinstance(item, _Call):
        return _Call
    work = item.work
    if isinstance(work, Failure):
        return work.stream
    return Load if isinstance(work, Load) and work.replay else work.stream.id


def _key(work: Work) -> object:
    return object() if isinstance(work, Failure) else key_of(work)


def _rows(work: Work) -> int:
    return work.plan.rows if isinstance(work, Load) else 0


def _bytes(work: Work) -> int:
    return work.version.size_bytes if isinstance(work, Load) else 0


def least(waits: Iterable[float | None]) -> float | None:
    """The shortest of these waits in seconds; None if there is none, or none that ends."""
    shortest = min((wait for wait in waits if wait is not None), default=math.inf)
    return None if shortest == math.inf else shortest


def _fail(batch: Iterable[Pending], error: Exception) -> None:
    for item in batch:
        item.future.set_exception(error)
