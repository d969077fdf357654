"""Whatever comes in whatever order, after each run every model equals its own SELECT over the whole input.

The moves are hypothesis's. One lake for all plays: each begins with a lake without files, in which only the history
is longer. A restart may bring other model files, of which one may fail until the next.

Tried once against broken code, and failed each time: without the before images of the feed, and of the rows of models
above; with ties broken by less than the models' own order; without what a model hands on to the next level; with
cursors that are too far; without what the models above changed while one was held back.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from consumer.embedded.stack import Stack
from tests.helpers import examples
from tests.model_play import ModelPlay, edited_models

Variant = Literal["plain", "edited", "wider", "broken"]
Kind = Literal["land", "follow", "restart", "maintain", Variant]
BROKEN = "int_shopify__customers"
EDITS: dict[Variant, dict[str, tuple[str, str]]] = {
    "plain": {},
    "edited": {"int_shopify__orders": ("financial_status,", "upper(financial_status) AS financial_status,")},
    "wider": {BROKEN: ("EXCLUDE (_airbyte_raw_id)", "EXCLUDE (_airbyte_raw_id), length(email) AS letters")},
    "broken": {BROKEN: ("email,", "email_of_long_ago,")},
}


@dataclass(frozen=True)
class Move:
    """A move, and what its dice begin with."""

    kind: Kind
    seed: int


CHANCES: dict[Kind, int] = {
    "land": 8,
    "follow": 6,
    "restart": 2,
    "maintain": 2,
    "plain": 2,
    "edited": 1,
    "wider": 1,
    "broken": 2,
}
MOVES = st.lists(
    st.builds(
        Move,
        kind=st.sampled_from([kind for kind, chance in CHANCES.items() for _ in range(chance)]),
        seed=st.integers(0, 2**32),
    ),
    min_size=3,
    max_size=10,
)
LANDINGS = [Move("land", seed) for seed in range(6)]
WHILE_ONE_FAILS = [
    *(*LANDINGS, Move("follow", 0)),
    *(Move("broken", 0), *LANDINGS[::-1], Move("follow", 0)),
    Move("plain", 0),
]
"""What reads the model that fails is held back, while its other inputs go on."""


@pytest.fixture(scope="module")
def play(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPlay]:
    folder = tmp_path_factory.mktemp("play")
    variants = {name: edited_models(folder / name, edits) for name, edits in EDITS.items()}
    play = ModelPlay(stack.tenant("transformplay"), folder, variants=variants, rebuild_share=0.3)
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
def test_every_model_equals_its_rebuild(play: ModelPlay, moves: list[Move]) -> None:
    broken: Sequence[str] = ()
    play.restart("plain")
    play.empty()
    for move in moves:
        dice = random.Random(move.seed)
        match move.kind:
            case "land":
                play.land(dice, dice.randrange(1, 4))
            case "follow":
                play.follow()
                play.assert_equal(but=broken)
            case "restart":
                play.restart()
            case "plain" | "edited" | "wider" | "broken":
                broken = (BROKEN,) if move.kind == "broken" else ()
                play.restart(move.kind)
            case "maintain":
                play.maintain()
            case _:
                assert_never(move.kind)
    play.follow()
    play.assert_equal(but=broken)


def test_the_plays_were_of_changed_keys(play: ModelPlay) -> None:
    how = Counter(run.how for run in play.runs)
    assert how["incremental"] > how["rebuild"] > 0
    assert {run.model for run in play.runs if run.error} == {BROKEN}
    assert {run.reason for run in play.runs if run.how == "rebuild"} >= {
        "it never ran",
        "its file has changed",
        "main.int_shopify__orders was rebuilt",
    }
