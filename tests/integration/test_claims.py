"""A claim that lapses while its key is in work: whoever gets the key meanwhile, its rows are there once."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from consumer.embedded.identity import Tenant
from feeders import fault
from tests.helpers import wait_until
from tests.proxy import TcpProxy
from tests.service import order_key, parquet, running_service

ACK_WAIT_S = 4
SOON_S = 60


class Holdup:
    """Stops the writer's thread at its first pass of a point, and counts what passes every point."""

    def __init__(self, point: str) -> None:
        self.passed: Counter[str] = Counter()
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self._point = point

    def __call__(self, name: str) -> None:
        self.passed[name] += 1
        if name == self._point and not self.reached.is_set():
            self.reached.set()
            assert self.go_on.wait(SOON_S)


@pytest.fixture
def holdup() -> Iterator[Holdup]:
    """In the middle of a batch, after all that its claims decide."""
    holdup = Holdup("rows written")
    yield holdup
    fault.arm(None)
    holdup.go_on.set()


def test_a_claim_that_lapses_before_the_batch_commits_nothing_and_one_in_the_batch_is_loaded_once(
    tenant: Tenant, holdup: Holdup
) -> None:
    """The queue gives both keys out again while their first walks are still under way."""
    in_batch, waiting = order_key("in-the-batch"), order_key("waiting")
    nats = urlsplit(tenant.endpoints.nats_url)
    with (
        TcpProxy(str(nats.hostname), int(nats.port or 0)) as proxy,
        running_service(
            tenant, LOTUS_NATS_URL=f"nats://{proxy.host}:{proxy.port}", LOTUS_ACK_WAIT_S=str(ACK_WAIT_S)
        ) as service,
    ):
        fault.arm(holdup)
        service.put(in_batch, parquet([{"_airbyte_raw_id": "a", "id": 1}]))
        assert holdup.reached.wait(SOON_S)
        service.put(waiting, parquet([{"_airbyte_raw_id": "b", "id": 2}]))
        wait_until(
            lambda: holdup.passed["submitting"] == 2,
            timeout_s=SOON_S,
            what="the second to wait for the writer",
        )

        # Nobody hears of a renewal for as long as a claim lasts.
        proxy.hold()
        lapsed_at = time.monotonic() + ACK_WAIT_S
        wait_until(lambda: time.monotonic() > lapsed_at, what="both claims to lapse")
        proxy.cut()
        proxy.release()
        wait_until(lambda: holdup.passed["claimed"] == 4, timeout_s=SOON_S, what="both to be given out again")
        transactions = holdup.passed["begun"]
        holdup.go_on.set()

        service.wait_for_outcomes(loaded=2, claim_lost=1, duplicate=1)
        assert service.outcomes()["loaded"] == 2
        assert service.rows("SELECT key, action FROM meta.feeder_files ORDER BY key") == [
            (in_batch, "loaded"),
            (waiting, "loaded"),
        ]
        rows = "SELECT _source_file, _airbyte_raw_id FROM staging.stg_shopify__orders ORDER BY 1"
        assert service.rows(rows) == [(in_batch, "a"), (waiting, "b")]
        assert service.rows("SELECT files, rows FROM meta.feeder_cursors WHERE stream = 'orders'") == [(2, 2)]
        assert transactions == 1
