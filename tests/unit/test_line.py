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
