"""Hundreds of plays of models: forty for each round of deaths, in two lakes at a time."""

from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from consumer.embedded.stack import Stack
from tests.model_moves import MOVES, Move, make_play, run_play

PLAYS = 40


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_every_model_equals_its_rebuild(stack: Stack, tmp_path: Path, seed: int) -> None:
    play = make_play(stack.tenant(f"plays{seed}"), tmp_path)
    played = 0

    @hypothesis.seed(seed)
    @settings(
        max_examples=PLAYS,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=(HealthCheck.too_slow,),
    )
    @given(moves=MOVES)
    def each(moves: list[Move]) -> None:
        nonlocal played
        run_play(play, moves)
        played += 1

    try:
        each()
        assert played >= PLAYS
        assert {run.how for run in play.runs} == {"incremental", "rebuild"}
    finally:
        play.close()
