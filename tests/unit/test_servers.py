"""What is heard of servers, and of loaded objects that wait for the models."""

from datetime import UTC, datetime

from consumer.metrics import Metrics
from consumer.servers import Servers
from feeders import landings
from feeders.landings import Landing, Landings
from feeders.streams import StreamId

ORDERS = StreamId(source="shopify", stream="orders")
EVENTS = StreamId(source="klaviyo", stream="events")
AT = datetime(2026, 7, 4, tzinfo=UTC)


def test_a_server_that_comes_back_is_up_and_a_reconnect() -> None:
    metrics = Metrics()
    servers = Servers(metrics)

    def seen(name: str) -> tuple[float | None, float | None]:
        labels = {"dependency": name}
        return (
            metrics.registry.get_sample_value("lotus_lake_dependency_up", labels),
            metrics.registry.get_sample_value("lotus_lake_reconnects_total", labels),
        )

    servers.answered("nats")
    assert seen("nats") == (1, 0)
    servers.silent("nats", "catalog", "disk")
    servers.silent("nats")
    assert seen("nats") == seen("postgresql") == (0, 0)
    assert seen("disk") == (None, None)
    servers.answered("postgresql", "nats")
    servers.answered("nats")
    assert seen("nats") == seen("postgresql") == (1, 1)


def test_the_end_of_a_term_drops_what_only_the_writer_knows() -> None:
    metrics = Metrics()
    metrics.pending.labels(source="shopify", stream="orders").set(3)
    metrics.model_errors.labels(model="fct_sales").set(1)
    metrics.takeovers.inc()
    metrics.end_term()
    names = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    assert not names & {"lotus_lake_pending_keys", "lotus_lake_model_failing"}
    assert "lotus_lake_takeovers_total" in names


def test_objects_wait_for_the_models_of_their_stream() -> None:
    waiting = Landings()
    order, event = Landing(stream=ORDERS, at=AT), Landing(stream=EVENTS, at=AT)
    waiting.note([order, event, order])
    assert waiting.take(frozenset({ORDERS})) == (order, order)
    assert waiting.take(frozenset({ORDERS})) == ()
    assert waiting.take(frozenset({ORDERS, EVENTS})) == (event,)


def test_no_more_objects_wait_than_there_is_room_for() -> None:
    waiting = Landings()
    waiting.note([Landing(stream=ORDERS, at=AT)] * (landings.MOST + 5))
    assert len(waiting.take(frozenset({ORDERS}))) == landings.MOST
