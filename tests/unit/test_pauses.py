"""What a term has in mind of paused streams: who listens is told, and the gauge follows, of every stream."""

from datetime import UTC, datetime

from consumer.metrics import Metrics
from consumer.pauses import Pauses
from feeders.pauses import Pause
from feeders.streams import StreamId

ORDERS, GONE = StreamId(source="shopify", stream="orders"), StreamId(source="shopify", stream="gone")


def paused(stream: StreamId) -> Pause:
    return Pause(stream=stream, since=datetime.now(UTC), by="ann", reason="why")


def test_who_listens_is_told_when_what_it_asks_has_changed() -> None:
    pauses = Pauses([ORDERS], Metrics())
    told: list[bool] = []
    pauses.listen(lambda: told.append(pauses.is_paused(ORDERS)))
    pauses.replace([paused(ORDERS), paused(GONE)])
    pauses.replace([paused(ORDERS)])
    pauses.replace([])
    assert told == [True, True, False]


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
