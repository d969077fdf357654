"""Do the models hold what their SELECTs give? The proof that goes on in production, and on demand.

Of each model a sample of keys is made anew and held against its rows; and the checks of `transforms/checks/` must
return no row. Both only read, and tell: nothing is stopped or mended by itself.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from feeders.checks import Check
from feeders.epoch import Epoch
from feeders.errors import StatementFailed
from feeders.lake import Lake, Row
from feeders.models import Model
from feeders.rebuild import quoted
from feeders.types import quote_identifier


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A model's sample.

    Attributes:
        keys: how many were compared.
        rows: those that are in the model and not in its SELECT, or the other way round.
    """

    model: Model
    keys: int
    rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A check and how many rows it returned; `examples` are the first of them, `columns` their names."""

    check: Check
    rows: int
    seconds: float
    columns: tuple[str, ...] = ()
    examples: tuple[Row, ...] = ()


class Observer(Protocol):
    """Hears what came out."""

    def compared(self, result: Compared) -> None:
        """A model's sample was compared."""
        ...

    def checked(self, result: Checked) -> None:
        """A check ran."""
        ...

    def failed(self, what: Model | Check | None, error: Exception) -> None:
        """One of them could not be run; None: the lake could not be asked at all."""
        ...


def compare(lake: Lake, model: Model, *, sample: int, whole: bool = False) -> Compared:
    """Compares the rows of sampled keys: so many of the model's own, and those that as many rows of each input affect.

    The first find a row that should not be there, the others one that is missing. The lake has to be at a snapshot in
    which the model is up to date. With `whole` the SELECT reads all of its inputs, so that a restrict that cuts away
    too much is found too; else it costs no more than an incremental run.

    Raises:
        StatementFailed: the model's SQL failed.
    """
    started = time.monotonic()
    table, key = quoted(model), quote_identifier(model.key)
    size = f"USING SAMPLE {sample:d} ROWS"
    parts = [f"SELECT {key} AS key FROM {table} {size}"]
    if not model.rebuild_only:
        for each in model.inputs:
            affected = f"WITH changed AS (SELECT * FROM {each.table} {size}) {each.keys_sql}\n"
            parts.append(f"SELECT key FROM ({affected}) AS affected(key)")
    sampled = " UNION ALL ".join(f"({part})" for part in parts)
    made = model.sql if model.rebuild_only or whole else model.restricted_sql
    [(keys, extra, missing)] = lake.query(
        f"WITH keys AS MATERIALIZED (SELECT DISTINCT key FROM ({sampled}) WHERE key IS NOT NULL),"
        f" found AS MATERIALIZED (SELECT * FROM {table} WHERE {key} IN (SELECT key FROM keys)),"
        f" wanted AS MATERIALIZED (SELECT * FROM ({made}\n) WHERE {key} IN (SELECT key FROM keys))"
        " SELECT (SELECT count(*) FROM keys),"
        " (SELECT count(*) FROM (FROM found EXCEPT ALL FROM wanted)),"
        " (SELECT count(*) FROM (FROM wanted EXCEPT ALL FROM found))"
    )
    return Compared(
        model=model, keys=int(keys), rows=int(extra) + int(missing), seconds=time.monotonic() - started
    )


def run_check(lake: Lake, check: Check, *, examples: int = 0) -> Checked:
    """Runs a check.

    Raises:
        StatementFailed: its SQL failed.
    """
    started = time.monotonic()
    [(rows,)] = lake.query(f"SELECT count(*) FROM ({check.sql}\n)")
    columns: tuple[str, ...] = ()
    shown: list[Row] = []
    if rows and examples:
        columns = tuple(name for name, *_ in lake.query(f"DESCRIBE {check.sql}\n"))
        shown = lake.query(f"SELECT COLUMNS(*)::VARCHAR FROM ({check.sql}\n) LIMIT {examples:d}")
    return Checked(
        check=check,
        rows=int(rows),
        seconds=time.monotonic() - started,
        columns=columns,
        examples=tuple(shown),
    )


class Verifier:
    """Goes round the models at an interval, and runs the checks if a model was rebuilt since. On the writer's thread.

    The first round runs the checks too: what the process before has rebuilt is not known. A check that returned rows,
    or could not run, runs in each round until it returned none.

    One model or check at a time, and only while no key waits, so that a new key can go between two of them. What is
    not up to date, since it fails, is left out.
    """

    def __init__(
        self,
        models: Sequence[Model],
        checks: Sequence[Check],
        observer: Observer,
        *,
        every_s: float,
        sample: int,
        is_current: Callable[[str], bool],
        rebuilds: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models, self._checks = tuple(models), tuple(checks)
        self._observer = observer
        self._every_s, self._sample = every_s, sample
        self._is_current = is_current
        self._rebuilds = rebuilds
        self._clock = clock
        self._round_at = clock() + every_s
        self._rebuilds_seen = -1
        self._open_checks: dict[str, Check] = {}
        self._left: deque[Model | Check] = deque()

    def due_in(self, *, idle: bool) -> float | None:
        """Seconds until `run` is due; None while keys wait."""
        if not idle:
            return None
        return 0.0 if self._left else max(0.0, self._round_at - self._clock())

    def run(self, lake: Lake, epoch: Epoch) -> None:
        """Compares the next model or runs the next check.

        Raises:
            LakeError: the lake could not be asked; the round goes on later.
        """
        if not self._left:
            self._round_at = self._clock() + self._every_s
            self._left.extend(self._models)
            self._round_checks()
        while self._left and not self._may_run(self._left[0]):
            self._left.popleft()
        if self._left:
            self._run(lake, self._left[0])
            self._left.popleft()

    def _round_checks(self) -> None:
        """After a rebuild all checks are to run, and each of them again until it returned no row."""
        if (rebuilds := self._rebuilds()) != self._rebuilds_seen:
            self._rebuilds_seen = rebuilds
            self._open_checks = {check.name: check for check in self._checks}
        self._left.extend(self._open_checks.values())

    def not_run(self, error: Exception) -> None:
        """Hears that `run` raised."""
        self._observer.failed(None, error)

    def _may_run(self, what: Model | Check) -> bool:
        tables = {what.table} if isinstance(what, Model) else what.tables
        return all(self._is_current(model.name) for model in self._models if model.table in tables)

    def _run(self, lake: Lake, what: Model | Check) -> None:
        try:
            match what:
                case Model():
                    self._observer.compared(compare(lake, what, sample=self._sample))
                case Check():
                    checked = run_check(lake, what)
                    if not checked.rows:
                        self._open_checks.pop(what.name, None)
                    self._observer.checked(checked)
                case _:
                    assert_never(what)
        except StatementFailed as error:
            if error.invalidates_instance:
                self._left.popleft()
                raise
            self._observer.failed(what, error)
