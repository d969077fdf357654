"""The moves of a play of models, and how one is played: after each run every model equals its own SELECT."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import hypothesis.strategies as st

from consumer.embedded.identity import Tenant
from tests.model_play import ModelPlay, edited_models

Variant = Literal["plain", "edited", "wider", "broken", "retyped", "retyped and broken"]
Kind = Literal["land", "follow", "restart", "maintain", Variant]
BROKEN = "int_shopify__customers"
RETYPED = {"int_klaviyo__profiles": ("attributes.updated AS", "CAST(attributes.updated AS VARCHAR) AS")}
"""Its table has to be made anew. What reads it reads the broken one too."""
EDITS: dict[Variant, dict[str, tuple[str, str]]] = {
    "plain": {},
    "edited": {"int_shopify__orders": ("financial_status,", "upper(financial_status) AS financial_status,")},
    "wider": {BROKEN: ("EXCLUDE (_airbyte_raw_id)", "EXCLUDE (_airbyte_raw_id), length(email) AS letters")},
    "broken": {BROKEN: ("email,", "email_of_long_ago,")},
    "retyped": RETYPED,
    "retyped and broken": {**RETYPED, BROKEN: ("email,", "email_of_long_ago,")},
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
    "retyped": 1,
    "retyped and broken": 1,
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
WITH_ANOTHER_FILE = [
    *(*LANDINGS, Move("follow", 0)),
    *(Move("edited", 0), *LANDINGS[:3], Move("follow", 0)),
    *(*LANDINGS[3:], Move("follow", 0)),
]
"""A model whose file has changed is rebuilt, and what reads it with it; then they go on by changed keys."""
WHILE_ONE_IS_MADE_ANEW = [
    *(*LANDINGS, Move("follow", 0)),
    *(Move("retyped and broken", 0), *LANDINGS[::-1], Move("follow", 0)),
    Move("retyped", 0),
]
"""What reads the model that fails is held back, while another of its inputs becomes another table."""


def make_play(tenant: Tenant, folder: Path, *, rebuild_rows: int = 0) -> ModelPlay:
    """A lake that plays can be played in, one after the other."""
    variants = {name: edited_models(folder / name, edits) for name, edits in EDITS.items()}
    return ModelPlay(tenant, folder, variants=variants, rebuild_share=0.3, rebuild_rows=rebuild_rows)


def run_play(play: ModelPlay, moves: Sequence[Move]) -> None:
    """One play, from a lake without files on. Raises AssertionError where a model is not what its SELECT gives."""
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
            case "plain" | "edited" | "wider" | "retyped":
                broken = ()
                play.restart(move.kind)
            case "broken" | "retyped and broken":
                broken = (BROKEN,)
                play.restart(move.kind)
            case "maintain":
                play.maintain()
            case _:
                assert_never(move.kind)
    play.follow()
    play.assert_equal(but=broken)
