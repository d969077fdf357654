"""The writer's line: each stream in turn, and each one's in order."""

from feeders.line import Line


def test_each_has_its_turn_and_its_own_order() -> None:
    line = Line[str, int]()
    for number in range(4):
        line.put("a", number)
    line.put("b", 10)
    line.put("c", 20)
    assert [line.take() for _ in range(2)] == [0, 10]
    line.put("b", 11)
    assert list(line.drain()) == [20, 1, 11, 2, 3]
    assert not line
    assert line.take() is None


def test_of_those_who_are_left_out_nothing_is_taken_and_they_keep_their_turn() -> None:
    line = Line[str, int]()
    for of, item in (("a", 0), ("a", 1), ("b", 10), ("b", 11)):
        line.put(of, item)
    assert [line.take({"a"}) for _ in range(3)] == [10, 11, None]
    assert list(line.drain()) == [0, 1]
