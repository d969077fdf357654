"""Slots of the worker pool: streams that have no keys do not keep those that have some from working."""

import pytest

from consumer import worker
from consumer.embedded.identity import Tenant
from tests.service import order_key, orders, put, put_all, running_service


def test_idle_streams_leave_slots_to_the_one_that_has_keys(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With so long a wait for keys, a slot that an idle stream keeps is gone for the whole test.
    monkeypatch.setattr(worker, "FETCH_WAIT_S", 600.0)
    with running_service(tenant, LOTUS_WORKER_SLOTS="12", LOTUS_WORKER_READS="2") as service:
        put(tenant, order_key("first"), orders(1))
        service.wait_for_outcomes(loaded=1)
        put_all(tenant, {order_key(f"more-{number}"): orders(10 + number) for number in range(20)})
        service.wait_for_outcomes(loaded=21)


def test_fewer_slots_than_streams_are_enough(tenant: Tenant) -> None:
    with running_service(tenant, LOTUS_WORKER_SLOTS="1", LOTUS_WORKER_READS="1") as service:
        put(tenant, order_key("first"), orders(1))
        put(tenant, "raw/shopify/customers/2026_07_04_1_1.parquet", orders(2))
        service.wait_for_outcomes(loaded=2)
