"""Whatever comes in whatever order, after each run every model equals its own SELECT over the whole input.

The moves are hypothesis's. One lake for all plays: each begins with a lake without files, in which only the history
is longer. A restart may bring other model files, of which one may fail until the next.

Tried once against broken code, and failed each time: without the before images of the feed, and of the rows of models
above; with ties broken by less than the models' own order; with rows that went taken for rows that stayed; without
what a model hands on to the next level; with cursors that are too far; without what the models above changed while one
was held back; without forgetting the cursors of what reads a table that was made anew. A feed that can't be read can't
be taken for an empty one: the transaction is lost with it. How the newest row is found of what came and what was there
is for test_transform_newest.py: these plays did not find it broken.
"""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from consumer.embedded.stack import Stack
from feeders import rebuild_by_hand
from feeders.lake import LakeConflict, Transaction
from feeders.models import Model
from feeders.rebuild import Rebuilt, rebuild
from tests.helpers import examples, wait_until
from tests.lakes import definitions, open_lake
from tests.model_moves import (
    BROKEN,
    MOVES,
    WHILE_ONE_FAILS,
    WHILE_ONE_IS_MADE_ANEW,
    WITH_ANOTHER_FILE,
    Move,
    make_play,
    run_play,
)
from tests.model_play import ModelPlay


@pytest.fixture(scope="module")
def play(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPlay]:
    play = make_play(stack.tenant("transformplay"), tmp_path_factory.mktemp("play"))
    yield play
    play.close()


@pytest.mark.timeout(1800)
@settings(
    max_examples=examples(30),
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # to shrink a play takes minutes
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.function_scoped_fixture),
)
@given(moves=MOVES)
@example(moves=WHILE_ONE_FAILS)
@example(moves=WHILE_ONE_IS_MADE_ANEW)
@example(moves=WITH_ANOTHER_FILE)
def test_every_model_equals_its_rebuild(play: ModelPlay, moves: list[Move]) -> None:
    run_play(play, moves)


def test_the_plays_were_of_changed_keys(play: ModelPlay) -> None:
    how = Counter(run.how for run in play.runs)
    assert min(how["incremental"], how["rebuild"]) > 0
    assert {run.model for run in play.runs if run.error} == {BROKEN}
    assert {run.reason for run in play.runs if run.how == "rebuild"} >= {
        "it never ran",
        "its file has changed",
        "main.int_shopify__orders was rebuilt",
    }


def test_changes_that_expired_by_another_hand_are_rebuilt(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Maintenance keeps the snapshots of the models' cursors; an operator's own expiry does not."""
    play = make_play(stack.tenant("expired"), tmp_path_factory.mktemp("expired"))
    dice = random.Random(4)
    try:
        play.land(dice, 12)
        play.follow()
        play.land(dice, 12)
        *old, _ = [
            n
            for (n,) in play.lake.query("FROM ducklake_snapshots('lakehouse') SELECT snapshot_id ORDER BY 1")
        ]
        play.lake.query("SELECT count(*) FROM ducklake_expire_snapshots('lakehouse', versions => ?)", (old,))
        play.runs.clear()
        play.follow()
        play.assert_equal()
        assert any("its changes can't be read" in run.reason for run in play.runs)
        play.land(dice, 12)
        play.runs.clear()
        play.follow()
        play.assert_equal()
        assert {run.how for run in play.runs} == {"incremental"}
    finally:
        play.close()


def test_a_table_that_is_gone_is_made_again_and_a_model_that_is_gone_leaves_no_cursor(
    stack: Stack, tmp_path: Path
) -> None:
    models = definitions().models
    fewer = [model for model in models if model.name != "fct_customer_engagement"]
    play = ModelPlay(
        stack.tenant("gonetable"), tmp_path, variants={"all": models, "fewer": fewer}, rebuild_share=1.0
    )
    dice = random.Random(8)
    try:
        play.land(dice, 12)
        play.follow()
        play.lake.query("DROP TABLE main.fct_sales")
        play.land(dice, 24)
        play.follow()
        play.assert_equal()
        play.restart("fewer")
        play.land(dice, 12)
        play.follow()
        known = {name for (name,) in play.lake.query("SELECT DISTINCT model FROM meta.transform_cursors")}
        assert known == {model.name for model in fewer}
        play.restart("all")
        play.follow()
        play.assert_equal()
    finally:
        play.close()


def test_a_rebuild_by_hand_is_left_to_a_writer_that_is_always_quicker(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = stack.tenant("byhand")
    play = make_play(tenant, tmp_path_factory.mktemp("byhand"))
    by_hand = open_lake(tenant, instance="d-test")
    dice, runs, done = random.Random(10), count(1), Event()
    ran = 0

    def write_on() -> None:
        nonlocal ran
        while not done.is_set():
            play.land(dice, 4)
            with suppress(LakeConflict):  # whoever rebuilds was quicker: the models are due again
                play.follow()
            ran = next(runs)

    def overtaken(transaction: Transaction, model: Model) -> Rebuilt:
        seen = ran if model is play.models[-1] else 0
        wait_until(lambda: ran > seen, timeout_s=60, what="a run of the writer meanwhile")
        return rebuild(transaction, model)

    monkeypatch.setattr(rebuild_by_hand, "rebuild", overtaken)
    try:
        play.land(dice, 12)
        play.follow()
        play.lake.query("DELETE FROM main.int_shopify__orders")
        with ThreadPoolExecutor() as pool:
            writer = pool.submit(write_on)
            try:
                rebuilt = rebuild_by_hand.rebuild_now(by_hand, play.models)
            finally:
                done.set()
                writer.result()
        assert {run.reason for run in rebuilt} == {"by the writer"}
        assert [run.model for run in rebuilt] == [model.name for model in play.models]
        play.follow()
        play.assert_equal()
    finally:
        by_hand.close()
        play.close()


def test_a_small_lake_is_rebuilt_until_it_is_no_longer_small(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The rows of the cursors decide, across restarts; what was rebuilt goes on by changed keys."""
    small = 60
    play = make_play(stack.tenant("smalllake"), tmp_path_factory.mktemp("small"), rebuild_rows=small)
    dice = random.Random(9)
    try:
        large = 0
        while large < 2:
            play.runs.clear()
            play.land(dice, 8)
            play.follow()
            play.assert_equal()
            [(rows,)] = play.lake.query("SELECT sum(rows) FROM meta.feeder_cursors")
            large += rows >= small
            assert {run.how for run in play.runs} == {"incremental" if rows >= small else "rebuild"}, rows
            if rows < small:
                play.restart()
    finally:
        play.close()
