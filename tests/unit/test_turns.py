"""Turns of subscriptions, and the share that one stream may have of the slots."""

from hypothesis import given
from hypothesis import strategies as st

from consumer.places import Places
from consumer.subjects import Lane
from consumer.turns import Turn, Turns
from feeders.streams import StreamId
from tests.helpers import fuzzed

A, B = (StreamId(source="shop", stream=name) for name in "ab")


def anyone(_: str) -> bool:
    return True


def test_who_has_more_goes_to_the_end_of_the_line() -> None:
    turns = Turns[str]()
    for name in "abc":
        turns.seen(name, 1)
    order: list[str] = []
    while len(order) < 9 and (turn := turns.take(anyone)):
        order.append(turn.of)
        turns.done(turn.of, newest=1, left=1)
    assert "".join(order) == "abcabcabc"


def test_one_that_may_not_be_asked_keeps_its_place_and_nobody_else_waiting() -> None:
    turns = Turns[str]()
    for name in "abc":
        turns.seen(name, 1)
    assert turns.take(lambda of: of != "a") == Turn(of="b", count=1, is_expected=False)
    turns.done("b", left=1)
    assert [turn.of for _ in range(3) if (turn := turns.take(anyone))] == ["a", "c", "b"]
    assert turns.take(anyone) is None


def test_nobody_is_asked_twice_at_once_and_what_comes_meanwhile_is_asked_for_after() -> None:
    turns = Turns[str]()
    turns.heard("a", 7)
    assert turns.take(anyone) == Turn(of="a", count=1, is_expected=True)
    turns.heard("a", 8)
    turns.seen("a", 1)
    assert turns.take(anyone) is None
    turns.done("a", newest=8)
    assert turns.take(anyone) is None, "the one that was heard of meanwhile was claimed too"
    turns.heard("a", 9)
    assert turns.take(anyone) == Turn(of="a", count=1, is_expected=True)
    turns.heard("a", 11)
    turns.done("a", newest=10)
    assert turns.take(anyone) == Turn(of="a", count=1, is_expected=True)
    turns.due("a")
    turns.done("a", newest=11)
    assert turns.take(anyone) == Turn(of="a", count=1, is_expected=True), "one that was given back is due"


def test_positions_that_begin_again_are_asked_for_without_being_expected() -> None:
    turns = Turns[str]()
    turns.seen("a", 1)
    assert turns.take(anyone)
    turns.done("a", newest=1000)
    turns.heard("a", 1)
    assert turns.take(anyone) == Turn(of="a", count=1, is_expected=False)
    turns.done("a", newest=1)
    turns.heard("a", 2)
    assert turns.take(anyone) == Turn(of="a", count=1, is_expected=True)


Moves = st.lists(st.tuples(st.sampled_from("hsdta"), st.sampled_from("abcd"), st.integers(0, 3)), max_size=60)


@fuzzed(200)
@given(Moves)
def test_whatever_is_heard_of_is_asked_for_and_in_turn(moves: list[tuple[str, str, int]]) -> None:
    """A model of the queue: each message that is stored is claimed when all turns have been taken."""
    turns, stored, asked = Turns[str](), {name: list[int]() for name in "abcd"}, dict[str, list[int]]()
    position = 0

    def ask() -> None:
        if turn := turns.take(anyone):
            assert turn.of not in asked
            asked[turn.of] = stored[turn.of][:2]

    def answer(name: str) -> None:
        found = asked.pop(name)
        del stored[name][: len(found)]
        turns.done(name, newest=max(found, default=0), left=len(stored[name]) if found else 0)

    for move, name, _ in moves:
        if move == "h":
            position += 1
            stored[name].append(position)
            turns.heard(name, position)
        elif move == "s":
            turns.seen(name, 1)
        elif move == "d":
            turns.due(name)
        elif move == "t":
            ask()
        elif name in asked:
            answer(name)
    for name in list(asked):
        answer(name)
    while turns:
        ask()
        answer(next(iter(asked)))
    assert not any(stored.values())


def test_one_stream_leaves_some_slots_to_the_others() -> None:
    places = Places(slots=16, replay_slots=4)
    places.take(A, places.free(A))
    assert (places.free(A), places.free(B), places.free(None)) == (0, 2, 2)
    places.take(B, 2)
    assert (places.free(B), places.free(None), places.free(Lane.REPLAYS)) == (0, 0, 4)
    places.give_back(A, 3)
    assert (places.free(A), places.free(B)) == (3, 3)
    places.take(Lane.REPLAYS, 4)
    assert (places.free(Lane.REPLAYS), places.free(B)) == (0, 3)


def test_one_slot_is_for_whoever_comes() -> None:
    places = Places(slots=1, replay_slots=1)
    assert places.free(A) == 1
    places.take(A, 1)
    assert (places.free(A), places.free(B)) == (0, 0)
