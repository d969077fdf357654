"""Room with shares: a newcomer finds some, in turn, and nothing that fits is kept waiting."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st

from consumer.shares import Shares, share_of
from tests.helpers import fuzzed


class Users:
    """Tasks that hold room until they are told to let go, by name."""

    def __init__(self, room: Shares[str]) -> None:
        self.room = room
        self.inside: list[str] = []
        self._go: list[tuple[str, asyncio.Event, asyncio.Task[None]]] = []

    async def come(self, of: str, amount: int = 1) -> None:
        go = asyncio.Event()
        self._go.append((of, go, asyncio.create_task(self._hold(of, amount, go))))
        await settle()

    async def leave(self, number: int, *, cancelled: bool = False) -> None:
        """The one that came as number so many, of those that are left, goes, whether it is inside or waits."""
        _, go, task = self._go.pop(number)
        go.set()
        if cancelled:
            task.cancel()
        await settle()

    async def _hold(self, of: str, amount: int, go: asyncio.Event) -> None:
        async with self.room.held(of, amount):
            self.inside.append(of)
            await go.wait()

    @property
    def left(self) -> int:
        return len(self._go)


async def settle() -> None:
    """Lets every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def users_of(total: int) -> AsyncGenerator[Users]:
    users = Users(Shares[str](total))
    yield users
    while users.left:
        await users.leave(0)
    assert users.room.used == 0


async def test_who_has_its_share_keeps_nobody_else_waiting() -> None:
    async with users_of(8) as users:
        for _ in range(20):
            await users.come("a")
        assert users.inside == ["a"] * 7
        await users.come("b")
        assert users.inside[7:] == ["b"]


async def test_who_waits_gets_room_in_turn() -> None:
    async with users_of(8) as users:
        for name in "aaaaaaaaab":
            await users.come(name)
        assert users.inside == ["a"] * 7 + ["b"]
        for name in "aabc":
            await users.come(name)
        for _ in range(4):
            await users.leave(0)
        assert users.inside[8:] == ["a", "b", "c", "a"]


async def test_what_is_more_than_a_share_goes_if_its_user_has_nothing_else() -> None:
    async with users_of(100) as users:
        await users.come("a", 95)
        await users.come("a", 1)
        assert users.inside == ["a"]
        await users.leave(0)
        assert users.inside == ["a", "a"]


async def test_small_ones_of_others_do_not_overtake_a_large_one() -> None:
    async with users_of(100) as users:
        await users.come("a", 50)
        await users.come("b", 80)
        await users.come("c", 1)
        assert users.inside == ["a"]
        await users.leave(0)
        assert users.inside == ["a", "b", "c"]


Comings = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.integers(1, 12)),
        st.tuples(st.booleans(), st.integers(0, 30)),
    ),
    max_size=40,
)


@fuzzed(200)
@given(Comings)
def test_whatever_comes_and_goes_the_room_is_kept_and_nobody_is_forgotten(
    comings: list[tuple[str | bool, int]],
) -> None:
    async def play() -> None:
        came = 0
        async with users_of(10) as users:
            for who, number in comings:
                if isinstance(who, str):
                    came += 1
                    await users.come(who, number)
                elif users.left:
                    await users.leave(number % users.left, cancelled=who)
                    came -= who
                assert users.room.used <= 12, "one larger than all goes alone"
        assert len(users.inside) >= came

    asyncio.run(play())


def test_a_share_is_never_nothing() -> None:
    assert [share_of(total) for total in (1, 2, 7, 8, 16, 200)] == [1, 1, 6, 7, 14, 175]
