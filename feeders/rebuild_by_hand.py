"""Models rebuilt by hand, beside a service that may commit all the time."""

import json
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

TRIES = 3
TRIES_ALONE = 10
FORGET_TRIES = 20
LEAST_WAIT_S = 20.0


def rebuild_now(lake: Lake, models: Sequence[Model], *, may_leave: bool = True) -> list[ModelRun]:
    """Rebuilds these models in one transaction; if a writer was quicker, that writer's next run does it.

    A rebuild takes long, and conflicts with each run of the writer meanwhile. To take the models' cursors away takes
    none of that time, and models without a cursor are rebuilt, with all below them, when the writer runs next, which
    it does while it commits. Where it does not after all, the next try succeeds.

    Args:
        lake: opened as the loader.
        models: in dependency order, with all that is below them.
        may_leave: the writer has the very files that these models are of.

    Raises:
        StatementFailed: a model failed; if it was not the first try, the writer tries all of them too.
        LakeConflict: neither succeeded.
    """
    begun = time.monotonic()
    tries = TRIES if may_leave else TRIES_ALONE
    for number in range(1, tries + 1):
        started = time.monotonic()
        try:
            return _rebuild(lake, models)
        except LakeConflict as error:
            lost = error
        if may_leave:
            if number == 1:
                _forget(lake, models)
            if _is_rebuilt(lake, models, wait_s=max(LEAST_WAIT_S, 3 * (time.monotonic() - started))):
                return _rebuilt_by_writer(lake, models, seconds=time.monotonic() - begun)
        if number == tries:
            left = "; the service makes the models anew with its next run" if may_leave else ""
            raise LakeConflict(f"a rebuild by hand was overtaken {tries} times{left}: {lost}") from lost
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
    """Takes their cursors away; why they fail and since when stays."""
    names = json.dumps([model.name for model in models])
    for attempt in Retrying(
        retry=retry_if_exception_type(LakeConflict), stop=stop_after_attempt(FORGET_TRIES), reraise=True
    ):
        with attempt, lake.transaction("forget models") as transaction:
            transaction.change(
                "UPDATE meta.transform_cursors SET snapshot_id = NULL"
                " WHERE model IN (SELECT unnest(from_json(?, '[\"VARCHAR\"]')))",
                (names,),
            )


def _is_rebuilt(lake: Lake, models: Sequence[Model], *, wait_s: float) -> bool:
    """Whether the writer ran all of them, of these very files, within so many seconds."""

    def look() -> bool:
        with lake.transaction("look at cursors") as transaction:
            cursors = read_cursors(transaction)
        made_of = {name: cursor.sql_hash for name, cursor in cursors.items()}
        return all(made_of.get(model.name) == model.sql_hash for model in models if model.inputs)

    waiting = Retrying(
        retry=retry_if_result(lambda found: not found),
        wait=wait_fixed(0.2),
        stop=stop_after_delay(wait_s),
        retry_error_callback=lambda _: False,
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
