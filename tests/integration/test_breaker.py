"""The circuit breaker: a stream whose files all break keeps them in the queue, until one loads again."""

import pytest
from structlog.testing import capture_logs

from consumer import key
from consumer.embedded.identity import Tenant
from tests.helpers import wait_until
from tests.service import (
    ORDERS,
    RunningService,
    delete_all,
    keys_in_queue,
    order_key,
    orders,
    parquet,
    put_all,
    running_service,
)

BROKEN = 30
DEAD = 20
CUSTOMERS = "raw/shopify/customers/2026_07_04_1_{}.parquet"


@pytest.mark.timeout(300)
def test_a_stream_whose_files_all_break_keeps_them_until_one_loads(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key, "YOUNG_S", 0.0)  # an object that is gone will not appear
    broken = {order_key(f"{number:02}"): b"no Parquet" for number in range(BROKEN)}
    with capture_logs() as lines, running_service(tenant, LOTUS_BREAKER_PROBE_S="0.5") as service:
        put_all(tenant, broken)
        wait_until(lambda: is_blocked(service), timeout_s=60, what="the stream to be blocked")
        # Other streams load meanwhile; probes go on, and none of them is given up.
        with service.expecting(loaded=5, poison=3):
            put_all(tenant, {CUSTOMERS.format(n): parquet([{"id": n}]) for n in range(5)})
        dead = dead_keys(service)
        assert len(dead) == DEAD
        assert is_blocked(service)

        # Half of those that wait are mended, the others are deleted.
        waiting = sorted(broken.keys() - dead)
        mended, deleted = waiting[:5], waiting[5:]
        delete_all(tenant, deleted)
        put_all(tenant, {each: orders(number) for number, each in enumerate(mended)})
        wait_until(lambda: not is_blocked(service), timeout_s=60, what="the stream not to be blocked")
        service.wait_for_rows(
            "SELECT key FROM meta.feeder_files WHERE stream = 'orders' ORDER BY key",
            [(each,) for each in mended],
        )
        wait_until(lambda: keys_in_queue(tenant) == 0, timeout_s=60, what="every key to have its verdict")
        assert dead_keys(service) == dead, "nothing else was given up"
    told = [line for line in lines if "blocked" in line["event"]]
    assert [(line["event"], line.get("reason")) for line in told] == [
        ("stream blocked", "not_parquet"),
        ("stream not blocked any more", None),
    ]


def is_blocked(service: RunningService) -> bool:
    """What the metric says of orders."""
    labels = {"source": ORDERS.source, "stream": ORDERS.stream}
    return service.service.metrics.registry.get_sample_value("lotus_lake_stream_blocked", labels) == 1


def dead_keys(service: RunningService) -> set[object]:
    """The keys that have an open dead letter."""
    found = service.rows("SELECT key FROM meta.feeder_failures WHERE resolved_at IS NULL")
    return {each for (each,) in found}
