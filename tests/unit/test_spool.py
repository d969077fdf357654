"""The spool: room for objects within a bound, in turn, nothing left behind."""

import asyncio
import errno
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import pytest

from consumer.errors import Misconfigured, NeedsMending
from consumer.spool import Slot, Spool
from feeders.schema import normalized_name
from feeders.streams import StreamId


class Holder:
    """A task that holds room in the spool until it is told to let go; each for a stream of its own."""

    streams = count()

    def __init__(self, spool: Spool, size_bytes: int) -> None:
        self._of = StreamId(source="many", stream=str(next(self.streams)))
        self.slot: Slot | None = None
        self._let_go = asyncio.Event()
        self.task = asyncio.create_task(self._hold(spool, size_bytes))

    async def _hold(self, spool: Spool, size_bytes: int) -> None:
        async with spool.reserve(size_bytes, of=self._of) as self.slot:
            await self._let_go.wait()
        self.slot = None

    async def let_go(self) -> None:
        self._let_go.set()
        await self.task

    async def give_up(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def fail_in(spool: Spool, error: Exception) -> None:
    async with spool.reserve(10) as slot:
        slot.path.write_bytes(b"object")
        raise error


async def settle() -> None:
    """Lets every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def entries(directory: Path) -> list[Path]:
    return sorted(directory.glob("lotus-slot-*"))


async def test_a_slot_is_a_file_of_its_own_that_goes_with_its_normalized_copy(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", 100) as spool:
        async with spool.reserve(10) as slot, spool.reserve(20) as other:
            assert slot.path != other.path
            assert not slot.path.exists()
            slot.path.write_bytes(b"object")
            (slot.work_dir / normalized_name(slot.path)).write_bytes(b"copy")
            assert len(entries(spool.directory)) == 2
            assert spool.used_bytes == 30
        assert spool.used_bytes == 0
        assert entries(spool.directory) == []


async def test_a_slot_goes_when_its_block_fails(tmp_path: Path) -> None:
    with Spool(tmp_path, 100) as spool:
        with pytest.raises(ValueError, match="broken"):
            await fail_in(spool, ValueError("broken"))
        assert (spool.used_bytes, entries(tmp_path)) == (0, [])


async def test_what_does_not_fit_waits_until_it_does(tmp_path: Path) -> None:
    with Spool(tmp_path, 100) as spool:
        first, second, third = (Holder(spool, size) for size in (60, 40, 1))
        await settle()
        assert first.slot
        assert second.slot
        assert third.slot is None
        assert spool.used_bytes == 100

        await second.let_go()
        await settle()
        assert third.slot
        await first.let_go()
        await third.let_go()
        assert spool.used_bytes == 0


async def test_small_ones_do_not_overtake_a_large_one_for_ever(tmp_path: Path) -> None:
    with Spool(tmp_path, 100) as spool:
        holding, large, small = (Holder(spool, size) for size in (50, 80, 10))
        await settle()
        assert holding.slot
        assert large.slot is None
        assert small.slot is None

        await holding.let_go()
        await settle()
        assert large.slot
        assert small.slot
        await large.let_go()
        await small.let_go()


async def test_a_file_larger_than_the_spool_goes_alone(tmp_path: Path) -> None:
    with Spool(tmp_path, 100) as spool:
        small, huge, next_one = (Holder(spool, size) for size in (1, 1000, 1))
        await settle()
        assert huge.slot is None
        await small.let_go()
        await settle()
        assert huge.slot
        assert next_one.slot is None
        await huge.let_go()
        await settle()
        assert next_one.slot
        await next_one.let_go()


async def test_who_gives_up_waiting_holds_nobody_up(tmp_path: Path) -> None:
    with Spool(tmp_path, 100) as spool:
        holding, large, small = (Holder(spool, size) for size in (50, 80, 10))
        await settle()
        await large.give_up()
        await settle()
        assert small.slot
        assert spool.used_bytes == 60
        await holding.let_go()
        await small.let_go()
        assert spool.used_bytes == 0


async def test_who_gives_up_in_the_moment_of_its_turn_leaves_no_room_taken(tmp_path: Path) -> None:
    with Spool(tmp_path, 100) as spool:
        async with AsyncExitStack() as held:
            await held.enter_async_context(spool.reserve(100))
            waiting, behind = Holder(spool, 100), Holder(spool, 100)
            await settle()
            # Its turn comes with the end of this block; its task is cancelled before it runs again.
        waiting.task.cancel()
        await settle()
        assert behind.slot
        await behind.let_go()
        assert spool.used_bytes == 0


async def test_a_turn_that_comes_to_one_just_cancelled_goes_to_the_next(tmp_path: Path) -> None:
    with Spool(tmp_path, 100) as spool:
        async with AsyncExitStack() as held:
            await held.enter_async_context(spool.reserve(100))
            waiting, behind = Holder(spool, 100), Holder(spool, 100)
            await settle()
            waiting.task.cancel()
        await settle()
        assert waiting.task.cancelled()
        assert behind.slot
        await behind.let_go()
        assert spool.used_bytes == 0


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, sys\nfrom pathlib import Path\nfrom consumer.spool import Spool\n"
        "async def main():\n"
        "    with Spool(Path(sys.argv[1]), 100) as spool:\n"
        "        async with spool.reserve(10) as slot:\n"
        "            slot.path.write_bytes(b'object')\n"
        "            os._exit(9)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert len(entries(tmp_path)) == 1
    (tmp_path / "somebody's.parquet").write_bytes(b"x")
    (tmp_path / "duckdb").mkdir()

    with Spool(tmp_path, 100):
        assert entries(tmp_path) == []
        assert (tmp_path / "somebody's.parquet").exists()
        assert (tmp_path / "duckdb").is_dir()


def test_a_folder_that_another_process_uses_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom consumer.spool import Spool\n"
        "with Spool(Path(sys.argv[1]), 100):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Misconfigured, match="another process") as caught, Spool(tmp_path, 100):
            pass
        assert "LOTUS_SPOOL_DIR" in caught.value.hint
        other.kill()
        other.wait()
        with Spool(tmp_path, 100):
            pass


async def test_a_spool_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Spool(tmp_path / "a" / "b", 100) as spool:
            async with spool.reserve(1) as slot:
                slot.path.write_bytes(b"x")


async def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misconfigured, match="can't be used"), Spool(tmp_path / "file" / "spool", 100):
        pass


async def test_a_path_that_duckdb_would_take_for_a_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="characters"), Spool(tmp_path / "spool[1]", 100):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_waits_for_someone_to_mend_it(tmp_path: Path, number: int) -> None:
    with Spool(tmp_path, 100) as spool:
        with pytest.raises(NeedsMending, match="free space") as caught:
            await fail_in(spool, OSError(number, os.strerror(number)))
        assert caught.value.dependency == "spool"
        assert (spool.used_bytes, entries(tmp_path)) == (0, [])


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EROFS, errno.EACCES])
async def test_trouble_of_the_disk_is_no_files_fault(tmp_path: Path, number: int) -> None:
    with Spool(tmp_path, 100) as spool:
        with pytest.raises(NeedsMending, match="look at the disk"):
            await fail_in(spool, OSError(number, os.strerror(number)))
        assert entries(tmp_path) == []


async def test_what_a_library_says_of_a_file_passes_through(tmp_path: Path) -> None:
    with Spool(tmp_path, 100) as spool:
        with pytest.raises(OSError, match="Couldn't deserialize thrift"):
            await fail_in(spool, OSError("Couldn't deserialize thrift"))
        assert entries(tmp_path) == []
