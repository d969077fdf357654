"""Random play on real servers, against a model in memory.

hypothesis chooses the moves by the seed, so a failure is played again with the same round. How the processes run
beside each other is left to chance. Nothing is shrunk: a play takes a minute.
"""

import sys
from collections import Counter
from pathlib import Path
from signal import SIGTERM
from typing import Literal

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from consumer.embedded.stack import Stack
from tests.faults.record import Book, Fault, Record
from tests.faults.stage import Stage

PLACES = ("shopify/orders", "klaviyo/events", "shopify/customers", "klaviyo/lists")
"""Of the project of `removing_project` the first two lose the rows of a deleted object."""
KEYS = [f"raw/{at}/year=2026/month=07/day=0{day}/part.parquet" for at in PLACES for day in (1, 2, 3)]
ANCHORS = [f"raw/{at}/year=2026/month=07/day=09/stays.parquet" for at in PLACES]
"""A stream whose listing is empty is not believed."""
PLAYS = 3
MOVES = 45
MOVES_A_LOOK = 12
MOST_LOSSES = 2
"""Between two looks. A key that is in work at three deaths in a row may be taken for their cause."""


class Play(RuleBasedStateMachine):
    """The moves, each if it is possible."""

    stack: Stack
    project_dir: Path
    moves: Counter[str]
    rest_s: list[float]

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(self.stack, self.project_dir)
        self.losses = self.unseen = 0
        for key in ANCHORS:
            self.stage.put(key, rows=1)
        self.stage.start()
        self.stage.up[0].consumer.wait_for("writer")

    # --- the bucket ---------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), rows=st.integers(0, 4))
    def put(self, key: str, rows: int) -> None:
        self._note("put")
        self.stage.put(key, rows=rows)

    @rule(key=st.sampled_from(KEYS), which=st.integers(0, 3))
    def put_earlier(self, key: str, which: int) -> None:
        """A, then B, then A again."""
        if self._is_there(key) and self.stage.world.thing(key).bodies:
            self._note("put earlier")
            self.stage.put_earlier(key, which)

    @rule(key=st.sampled_from(KEYS))
    def put_broken(self, key: str) -> None:
        self._note("put broken")
        self.stage.put_broken(key)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        if self._is_there(key):
            self._note("delete")
            self.stage.delete(key)

    # --- the queue, and the operator ----------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), event=st.sampled_from(["created", "removed"]), which=st.integers(0, 3))
    def redeliver(self, key: str, event: Literal["created", "removed"], which: int) -> None:
        if key in self.stage.world.things:
            self._note("redeliver")
            self.stage.announce(key, event, which)

    @rule()
    def empty_the_queue(self) -> None:
        self._note("empty the queue")
        self.stage.empty_the_queue()

    @precondition(lambda self: not self.stage.up)
    @rule()
    def forget_the_position(self) -> None:
        self._note("forget the position")
        self.stage.forget_the_position()

    @precondition(lambda self: self.stage.up and not self.stage.frozen)
    @rule(key=st.sampled_from(KEYS))
    def replay(self, key: str) -> None:
        self._note("replay")
        self.stage.replay(key)

    @rule()
    def sweep(self) -> None:
        self._note("sweep")
        self.stage.sweep()

    # --- the consumers ------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.stage.up) < len(self.stage.seats))
    @rule()
    def start(self) -> None:
        self._note("start")
        self.stage.start()

    @precondition(lambda self: self.stage.up and self.losses < MOST_LOSSES)
    @rule(which=st.integers(0, 1))
    def kill(self, which: int) -> None:
        self._note_loss("kill")
        self.stage.lose(which).consumer.kill()

    @precondition(lambda self: self.stage.up and not self.stage.frozen and self.losses < MOST_LOSSES)
    @rule(which=st.integers(0, 1))
    def tell_to_stop(self, which: int) -> None:
        """Nobody waits until it has drained."""
        self._note_loss("tell to stop")
        self.stage.lose(which).consumer.send(SIGTERM)

    @precondition(
        lambda self: len(self.stage.up) == 2 and not self.stage.frozen and self.losses < MOST_LOSSES
    )
    @rule(which=st.integers(0, 1), how=st.sampled_from(["stop", "cut"]))
    def freeze(self, which: int, how: Literal["stop", "cut"]) -> None:
        self._note_loss(how)
        self.stage.freeze(which, how)

    @precondition(lambda self: self.stage.frozen)
    @rule()
    def thaw(self) -> None:
        self._note("thaw")
        self.stage.thaw()

    # --- the look -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.unseen >= MOVES_A_LOOK)
    @rule()
    def look(self) -> None:
        self._note("look")
        self.stage.look()
        self.losses = self.unseen = 0

    def teardown(self) -> None:
        """The last look, unless something failed."""
        try:
            if sys.exc_info()[0] is None:
                self.stage.look()
                for seat in self.stage.up:
                    assert seat.consumer.terminate() == 0, seat.consumer.tail()
        finally:
            self.rest_s += self.stage.rest_s
            self.stage.close()

    def _is_there(self, key: str) -> bool:
        thing = self.stage.world.things.get(key)
        return thing is not None and thing.now is not None

    def _note(self, move: str) -> None:
        self.moves[move] += 1
        self.unseen += 1

    def _note_loss(self, how: str) -> None:
        self._note(how)
        self.losses += 1


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_random_play(stack: Stack, project_dir: Path, book: Book, seed: int) -> None:
    moves: Counter[str] = Counter()
    rest_s: list[float] = []
    facts = {"stack": stack, "project_dir": project_dir, "moves": moves, "rest_s": rest_s}
    run_state_machine_as_test(
        seeded(seed)(type("SeededPlay", (Play,), facts)),
        settings=settings(
            max_examples=PLAYS,
            stateful_step_count=MOVES,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
        ),
    )
    book.write(
        Record(
            fault=Fault.MACHINE,
            kills=sum(moves[loss] for loss in ("kill", "tell to stop", "stop", "cut")),
            restarts=moves["start"] + moves["thaw"],
            files=sum(moves[put] for put in ("put", "put earlier", "put broken")),
            recovery_s=rest_s,
            detail={
                "deletions": moves["delete"],
                "redeliveries": moves["redeliver"],
                "queues emptied": moves["empty the queue"],
                "replays": moves["replay"],
                "sweeps": moves["sweep"],
            },
        )
    )
