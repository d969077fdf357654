"""What a term has in mind of paused streams: who waits is woken, and the gauge follows, of every stream."""

import asyncio
from datetime import UTC, datetime

from consumer.metrics import Metrics
from consumer.pauses import Pauses
from feeders.pauses import Pause
from feeders.streams import StreamId

ORDERS, GONE = StreamId(source="shopify", stream="orders"), StreamId(source="shopify", stream="gone")


def paused(stream: StreamId) -> Pause:
    return Pause(stream=stream, since=datetime.now(UTC), by="ann", reason="why")


async def test_who_waits_for_a_stream_is_woken_by_its_resume_only() -> None:
    pauses = Pauses([ORDERS], Metrics())
    await asyncio.wait_for(pauses.until_resumed(ORDERS), timeout=1)
    pauses.replace([paused(ORDERS), paused(GONE)])
    waiting = [asyncio.create_task(pauses.until_resumed(ORDERS)) for _ in range(2)]
    await asyncio.sleep(0)
    pauses.replace([paused(ORDERS)])
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting), "it was the other one that was resumed"
    pauses.replace([])
    await asyncio.wait_for(asyncio.gather(*waiting), timeout=1)


def test_the_gauge_of_a_stream_that_has_left_ddl_falls_too() -> None:
    metrics = Metrics()
    pauses = Pauses([ORDERS], metrics)

    def gauge(stream: StreamId) -> float | None:
        labels = {"source": stream.source, "stream": stream.stream}
        return metrics.registry.get_sample_value("lotus_lake_stream_paused", labels)

    assert (gauge(ORDERS), gauge(GONE)) == (0, None)
    pauses.replace([paused(GONE)])
    assert (gauge(ORDERS), gauge(GONE)) == (0, 1)
    assert pauses.is_paused(GONE)
    assert not pauses.is_paused(None)
    pauses.replace([])
    assert (gauge(ORDERS), gauge(GONE)) == (0, 0)
