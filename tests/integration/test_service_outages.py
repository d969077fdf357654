"""The service and its servers: gone at the start, restarted under load, or refusing us."""

from pathlib import Path
from typing import Literal

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.process import Server
from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing
from tests.helpers import wait_until
from tests.landed import Bucketful, assert_exact, wait_until_loaded
from tests.processes import ConsumerProcess, consumer_process

Name = Literal["nats", "postgres", "weed"]
# In the order in which a start needs them.
REASONS: dict[Name, str] = {"postgres": "catalog", "nats": "nats", "weed": "s3"}


def server_of(stack: Stack, name: Name) -> Server:
    match name:
        case "nats":
            return stack.nats
        case "postgres":
            return stack.postgres
        case "weed":
            return stack.weed


@pytest.fixture
def bucketful(tenant: Tenant) -> Bucketful:
    return Bucketful(tenant=tenant, landing=Landing(seed=2, files=None, rows=(3, 12)))


def test_restarts_under_load_are_survived(stack: Stack, bucketful: Bucketful, tmp_path: Path) -> None:
    with consumer_process(bucketful.tenant, tmp_path / "consumer.log") as consumer:
        consumer.wait_for("writer")
        for name in REASONS:
            bucketful.land(3, rate=0)
            server_of(stack, name).restart()
            bucketful.land(2)
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        consumer.wait_for("writer")
        assert consumer.terminate() == 0, consumer.tail()


@pytest.mark.faults
@pytest.mark.parametrize("name", REASONS)
def test_a_server_that_is_killed_is_named(
    stack: Stack, bucketful: Bucketful, tmp_path: Path, name: Name
) -> None:
    server = server_of(stack, name)
    with consumer_process(bucketful.tenant, tmp_path / "consumer.log") as consumer:
        consumer.wait_for("writer")
        bucketful.land(4, rate=0)
        server.kill()
        wait_until_named(consumer, name)
        server.start()
        bucketful.land(4)
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        consumer.wait_for("writer")
        assert consumer.terminate() == 0, consumer.tail()


def test_servers_that_are_away_at_the_start_are_waited_for(
    stack: Stack, bucketful: Bucketful, tmp_path: Path
) -> None:
    """All three, and one after the other comes back; each in turn is named as what is missing."""
    bucketful.land(2)
    servers = [server_of(stack, name) for name in REASONS]
    for server in servers:
        server.stop()
    try:
        with consumer_process(bucketful.tenant, tmp_path / "consumer.log") as consumer:
            for name, server in zip(REASONS, servers, strict=True):
                wait_until_named(consumer, name)
                assert consumer.page("/livez")[0] == 200
                assert consumer.metric("lotus_lake_ready") == 0
                server.start()
            consumer.wait_for("writer")
            wait_until_loaded(bucketful)
            assert_exact(bucketful)
            assert consumer.terminate() == 0, consumer.tail()
    finally:
        for server in servers:
            server.start()


def wait_until_named(consumer: ConsumerProcess, name: Name) -> None:
    """Waits until /readyz says that this server is what is missing."""
    wait_until(
        lambda: (said := consumer.ready())[0] == 503 and REASONS[name] in said[1],
        timeout_s=60,
        what=f"/readyz to blame {name}",
    )


@pytest.mark.parametrize(
    "setting", ["LOTUS_CATALOG_PASSWORD", "LOTUS_NATS_PASSWORD", "LOTUS_S3_SECRET_ACCESS_KEY"]
)
def test_a_wrong_secret_is_refused_with_the_cure(tenant: Tenant, tmp_path: Path, setting: str) -> None:
    with consumer_process(
        tenant, tmp_path / "consumer.log", settings={setting: "not-the-secret"}
    ) as consumer:
        assert consumer.wait_for_end() == 3, consumer.tail()
        said = consumer.tail()
    assert "error: " in said
    assert "hint: " in said
    assert setting.rpartition("_")[0].removesuffix("_ACCESS") in said, said
    assert "Traceback" not in said
    assert "not-the-secret" not in said
