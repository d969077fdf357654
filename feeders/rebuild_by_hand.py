"""Models rebuilt by hand, beside a service that may commit all the time."""

import time
from collections.abc import Sequence

from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from feeders.increment import ModelRun
from feeders.lake import Lake, LakeConflict
from feeders.model_cursors import read_cursors, write_cursors
from feeders.models import Model
from feeders.rebuild import quoted, rebuild
from feeders.transform import newest_snapshot

ROUNDS = 3
FORGET_TRIES = 20
WAIT_S = 20.0


def rebuild_now(lake: Lake, models: Sequence[Model]) -> list[ModelRun]:
    """Rebuilds these models in one transaction; if a writer was quicker, that writer's next run does it.

    A rebuild takes long, and conflicts with each run of the writer meanwhile. To take the models' cursors away takes
    none of that time, and without a cursor a model is rebuilt when the writer runs next, which it does while it
    commits. So a lost try leads to that, and to another try when the writer has nothing to do after all.

    Raises:
        StatementFailed: a model failed; nothing was changed, but that the writer may try it too.
        LakeConflict: neither succeeded, ROUNDS times in a row.
    """
    started = time.monotonic()
    for attempt in range(1, ROUNDS + 1):
        try:
            return _rebuild(lake, models)
        except LakeConflict:
            if attempt == ROUNDS:
                raise
        _forget(lake, models)
        if _is_rebuilt(lake, models):
            return _rebuilt_by_writer(lake, models, seconds=time.monotonic() - started)
    raise AssertionError("unreachable")


def _rebuild(lake: Lake, models: Sequence[Model]) -> list[ModelRun]:
    runs: list[ModelRun] = []
    with lake.transaction("rebuild by hand") as transaction:
        for model in models:
            started = time.monotonic()
            rows = rebuild(transaction, model).rows
            seconds = time.monotonic() - started
            runs.append(
                ModelRun(model=model.name, seconds=seconds, rows=rows, how="rebuild", reason="by hand")
            )
        write_cursors(transaction, models, snapshot=newest_snapshot(transaction) + 1)
    return runs


def _forget(lake: Lake, models: Sequence[Model]) -> None:
    for attempt in Retrying(
        retry=retry_if_exception_type(LakeConflict), stop=stop_after_attempt(FORGET_TRIES), reraise=True
    ):
        with attempt, lake.transaction("forget models") as transaction:
            write_cursors(transaction, (), snapshot=0, forgotten=models)


def _is_rebuilt(lake: Lake, models: Sequence[Model]) -> bool:
    """Whether the writer ran all of them, of these very files, within WAIT_S seconds."""

    def look() -> bool:
        with lake.transaction("look at cursors") as transaction:
            cursors = read_cursors(transaction)
        made_of = {name: cursor.sql_hash for name, cursor in cursors.items()}
        return all(made_of.get(model.name) == model.sql_hash for model in models)

    waiting = Retrying(
        retry=retry_if_result(lambda found: not found),
        wait=wait_fixed(0.2),
        stop=stop_after_delay(WAIT_S),
        retry_error_callback=lambda state: False,
    )
    return waiting(look)


def _rebuilt_by_writer(lake: Lake, models: Sequence[Model], *, seconds: float) -> list[ModelRun]:
    return [
        ModelRun(
            model=model.name,
            seconds=seconds,
            rows=int(lake.query(f"SELECT count(*) FROM {quoted(model)}")[0][0]),  # noqa: S608 (quoted)
            how="rebuild",
            reason="by the writer",
        )
        for model in models
    ]
