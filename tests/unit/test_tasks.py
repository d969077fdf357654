"""Tasks that swallow a cancellation, as nats-py's do now and then, end all the same."""

import asyncio

import pytest

from consumer.tasks import end, run_together


async def deaf(cancels: list[str], times: int = 1) -> None:
    """A loop that goes on after its first cancellations."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancels.append("heard")
            if len(cancels) > times:
                raise


async def test_a_task_that_swallows_a_cancel_is_asked_again() -> None:
    cancels: list[str] = []
    task = asyncio.create_task(deaf(cancels))
    await asyncio.sleep(0)
    await asyncio.wait_for(end([task]), 10)
    assert task.cancelled()


async def test_what_runs_together_ends_when_it_is_cancelled_and_one_of_it_is_deaf() -> None:
    """Cancelled again and again from outside too: no child is left behind."""
    cancels: list[str] = []
    together = asyncio.create_task(run_together([deaf(cancels, times=2), asyncio.sleep(3600)]))
    await asyncio.sleep(0)  # now it has made its children,
    await asyncio.sleep(0)  # and now they run
    await asyncio.wait_for(end([together]), 10)
    assert together.cancelled()
    assert len(cancels) == 3
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_first_error_ends_the_others_and_is_raised() -> None:
    cancels: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        await asyncio.wait_for(run_together([deaf(cancels), fail()]), 10)
    assert len(cancels) == 2
