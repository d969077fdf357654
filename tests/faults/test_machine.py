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
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

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


BucketMove = Literal["put", "put earlier", "put broken", "delete"]
QueueMove = Literal["redeliver", "replay", "sweep", "empty the queue", "forget the position"]
ConsumerMove = Literal["start", "kill", "tell to stop", "stop", "cut", "thaw"]
Move = BucketMove | QueueMove | ConsumerMove | Literal["look"]
LOSSES: tuple[Move, ...] = ("kill", "tell to stop", "stop", "cut")
CHANCES: dict[Move, int] = {
    "put": 8,
    "put earlier": 4,
    "put broken": 3,
    "delete": 6,
    "redeliver": 6,
    "replay": 3,
    "sweep": 1,
    "empty the queue": 1,
    "forget the position": 1,
    "start": 4,
    "kill": 3,
    "tell to stop": 2,
    "stop": 2,
    "cut": 2,
    "thaw": 2,
    "look": 3,
}


class Play(RuleBasedStateMachine):
    """The moves of a play."""

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

    @rule(
        name=st.sampled_from([name for name, chance in CHANCES.items() for _ in range(chance)]),
        key=st.sampled_from(KEYS),
        number=st.integers(0, 3),
    )
    def move(self, name: Move, key: str, number: int) -> None:
        """One move, or a put if that one is not possible now.

        One rule for all: hypothesis leaves most of many rules out of a play, and its first play repeats the first.
        """
        if not self._can(name, key):
            name = "put"
        self.moves[name] += 1
        self.unseen += 1
        self.losses += name in LOSSES
        match name:
            case "put" | "put earlier" | "put broken" | "delete":
                self._in_bucket(name, key, number)
            case "redeliver" | "replay" | "sweep" | "empty the queue" | "forget the position":
                self._in_queue(name, key, number)
            case "start" | "kill" | "tell to stop" | "stop" | "cut" | "thaw":
                self._among_consumers(name, number)
            case "look":
                self.stage.look()
                self.losses = self.unseen = 0

    def _can(self, name: Move, key: str) -> bool:
        stage, thing = self.stage, self.stage.world.things.get(key)
        is_there = thing is not None and thing.now is not None
        may_lose = bool(stage.up) and self.losses < MOST_LOSSES
        match name:
            case "put" | "put broken" | "sweep" | "empty the queue":
                return True
            case "put earlier":
                return thing is not None and is_there and bool(thing.bodies)
            case "delete":
                return is_there
            case "redeliver":
                return thing is not None
            case "forget the position":
                return not stage.up
            case "replay":
                return bool(stage.up) and not stage.frozen
            case "start":
                return len(stage.up) < len(stage.seats)
            case "kill":
                return may_lose
            case "tell to stop":
                return may_lose and not stage.frozen
            case "stop" | "cut":
                return may_lose and len(stage.up) == 2 and not stage.frozen
            case "thaw":
                return bool(stage.frozen)
            case "look":
                return self.unseen >= MOVES_A_LOOK

    def _in_bucket(self, name: BucketMove, key: str, number: int) -> None:
        match name:
            case "put":
                self.stage.put(key, rows=number)
            case "put earlier":  # A, then B, then A again
                self.stage.put_earlier(key, number)
            case "put broken":
                self.stage.put_broken(key)
            case "delete":
                self.stage.delete(key)

    def _in_queue(self, name: QueueMove, key: str, number: int) -> None:
        match name:
            case "redeliver":
                self.stage.announce(key, "removed" if number == 0 else "created", number)
            case "replay":
                self.stage.replay(key)
            case "sweep":
                self.stage.sweep()
            case "empty the queue":
                self.stage.empty_the_queue()
            case "forget the position":
                self.stage.forget_the_position()

    def _among_consumers(self, name: ConsumerMove, number: int) -> None:
        match name:
            case "start":
                self.stage.start()
            case "kill":
                self.stage.lose(number).consumer.kill()
            case "tell to stop":  # nobody waits until it has drained
                self.stage.lose(number).consumer.send(SIGTERM)
            case "stop" | "cut":
                self.stage.freeze(number % 2, name)
            case "thaw":
                self.stage.thaw()

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
            kills=sum(moves[loss] for loss in LOSSES),
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
