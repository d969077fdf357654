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
from tests.processes import consumer_process

Name = Literal["nats", "postgres", "weed"]
REASONS: dict[Name, str] = {"nats": "nats", "postgres": "catalog", "weed": "s3"}


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


@pytest.mark.parametrize("how", ["stop", pytest.param("kill", marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", ["nats", "postgres", "weed"])
def test_a_restart_under_load_is_survived(
    stack: Stack, bucketful: Bucketful, tmp_path: Path, name: Name, how: str
) -> None:
    server = server_of(stack, name)
    with consumer_process(bucketful.tenant, tmp_path / "consumer.log") as consumer:
        consumer.wait_for("writer")
        bucketful.land(4, rate=0)
        if how == "stop":
            server.restart()
        else:
            server.kill()
            wait_until(
                lambda: (said := consumer.ready())[0] == 503 and REASONS[name] in said[1],
                timeout_s=60,
                what=f"/readyz to blame {name}",
            )
            server.start()
        bucketful.land(4)
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        consumer.wait_for("writer")
        assert consumer.terminate() == 0, consumer.tail()


@pytest.mark.parametrize("name", ["nats", "postgres", "weed"])
def test_a_server_that_is_away_at_the_start_is_waited_for(
    stack: Stack, bucketful: Bucketful, tmp_path: Path, name: Name
) -> None:
    server = server_of(stack, name)
    bucketful.land(2)
    server.stop()
    try:
        with consumer_process(bucketful.tenant, tmp_path / "consumer.log") as consumer:
            wait_until(
                lambda: (said := consumer.ready())[0] == 503 and REASONS[name] in said[1],
                timeout_s=60,
                what=f"/readyz to blame {name}",
            )
            assert consumer.page("/livez")[0] == 200
            assert consumer.metric("lotus_lake_ready") == 0
            server.start()
            consumer.wait_for("writer")
            wait_until_loaded(bucketful)
            assert_exact(bucketful)
            assert consumer.terminate() == 0, consumer.tail()
    finally:
        server.start()


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
