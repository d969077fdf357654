"""What /metrics says of a running service: how fresh the models are, how old the queue is, and its servers."""

from consumer.embedded.identity import Tenant
from tests.helpers import wait_until
from tests.service import RunningService, announce, order_key, orders, put, running_service

ORDERS = {"source": "shopify", "stream": "orders"}


def value(service: RunningService, name: str, **labels: str) -> float | None:
    """A sample of the service's metrics."""
    return service.service.metrics.registry.get_sample_value(f"lotus_lake_{name}", labels)


def test_an_objects_way_is_measured_to_staging_and_to_the_models(tenant: Tenant) -> None:
    with running_service(tenant) as service:
        for name, ids in (("a", (1, 2)), ("b", (3,))):
            service.put(order_key(name), orders(*ids))
        service.wait_for_outcomes(loaded=2)
        wait_until(
            lambda: value(service, "put_to_fct_seconds_count", **ORDERS) == 2,
            what="both objects to be counted as in all models",
        )
        to_staging = value(service, "put_to_staging_seconds_sum", **ORDERS)
        to_fct = value(service, "put_to_fct_seconds_sum", **ORDERS)
        assert to_staging is not None
        assert to_fct is not None
        # S3 tells when an object landed in whole seconds.
        assert 0 < to_staging < to_fct < 60
        commits = value(service, "commit_seconds_count")
        assert commits is not None
        assert 1 <= commits <= 2
        assert value(service, "takeovers_total") == 1
        for name in ("nats", "s3", "postgresql", "filer"):
            assert value(service, "dependency_up", dependency=name) == 1, name
        free, most = value(service, "spool_disk_free_bytes"), value(service, "spool_max_bytes")
        assert free
        assert most == service.settings.spool_max_bytes
    assert value(service, "pending_keys", **ORDERS) is None


def test_the_age_of_the_oldest_key_grows_while_it_can_not_be_loaded(tenant: Tenant) -> None:
    # The event is of a version that is not there: young enough, it is waited for.
    with running_service(tenant, LOTUS_SWEEP_AT_START="false") as service:
        put(tenant, order_key("whole"), orders(1))
        service.wait_for_outcomes(loaded=1)
        announce(tenant, order_key("not_there_yet"), etag="0" * 32)
        service.wait_for_outcomes(not_yet=1)

        def age() -> float:
            return value(service, "oldest_pending_seconds", **ORDERS) or 0.0

        first = wait_until(age, what="the key to have an age")
        assert 0 < first < 30
        wait_until(lambda: age() > first, what="it to grow")
        assert value(service, "oldest_pending_seconds", source="_replay", stream="_") == 0
