"""Replicas: one consumer writes, the other waits and takes over; objects land the whole time.

`make faults` has more of it: three replicas, SIGSTOP and SIGTERM, in turns (tests/faults/test_replicas_faults.py).
"""

from pathlib import Path

from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from tests.landed import Bucketful, assert_exact, wait_until_loaded
from tests.replicas import Replica, assert_wrote_nothing_since, replicas, take_over

FILES = 18
TAKEOVER_BESIDE_OTHERS_S = 15.0
"""`make faults` holds ten seconds (tests.replicas.TAKEOVER_S); here other tests take the same two cores meanwhile."""


def test_a_standby_takes_over_from_a_writer_whose_network_is_cut_and_from_one_that_was_killed(
    tenant: Tenant, tmp_path: Path
) -> None:
    bucketful = Bucketful(tenant=tenant, landing=Landing(seed=2, files=None, rows=(3, 12)))
    with (
        replicas(tenant, tmp_path, count=2) as (first, second),
        bucketful.landing_meanwhile(FILES, rate=3),
    ):
        first.consumer.wait_for_log('"loaded"')
        assert_waits(second)
        assert first.consumer.metric("lotus_lake_is_writer") == 1
        assert first.consumer.metric("lotus_lake_ready") == 1

        cut = take_over((first, second), first.cut, but=first)
        first.mend()
        first.consumer.wait_for("standby")
        assert second.consumer.metric("lotus_lake_is_writer") == 1

        killed = take_over((first, second), second.consumer.kill, but=second)
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert_wrote_nothing_since((cut, killed))
        assert first.consumer.terminate() == 0, first.consumer.tail()
    assert cut.seconds < TAKEOVER_BESIDE_OTHERS_S
    assert killed.seconds < TAKEOVER_BESIDE_OTHERS_S


def assert_waits(replica: Replica) -> None:
    """Asserts that it is well, and pulls nothing: it has never had a connection to queue, bucket or filer."""
    assert replica.consumer.ready() == (200, "standby")
    assert replica.consumer.page("/livez")[0] == 200
    assert replica.consumer.metric("lotus_lake_is_writer") == 0
    assert "lotus_lake_verdicts_total{" not in replica.consumer.page("/metrics")[1]
    assert [replica.connections()[name] for name in ("nats", "s3", "filer")] == [0, 0, 0]
