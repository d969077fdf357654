"""The samples in deploy/ do what README says, on real servers."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from consumer.check import check_postgres
from consumer.embedded import weed
from consumer.embedded.folder import Ports, State
from consumer.embedded.identity import S3Identity, Tenant
from consumer.embedded.process import Launcher, Server, ServerSpec
from consumer.embedded.stack import Stack
from consumer.settings import load_settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
POLICIES = {"landing": "landing-bucket-policy.json", "lake": "lake-bucket-policy.json"}


@pytest.fixture(scope="module")
def identities() -> weed.S3Identities:
    """The identities of deploy/seaweedfs/s3.json."""
    listed = json.loads((DEPLOY / "seaweedfs" / "s3.json").read_text())["identities"]

    def identity(entry: dict[str, list[dict[str, str]]]) -> S3Identity:
        (keys,) = entry["credentials"]
        return S3Identity(
            name=str(entry["name"]), access_key_id=keys["accessKey"], secret_access_key=keys["secretKey"]
        )

    return weed.S3Identities(**{entry["name"]: identity(entry) for entry in listed})


@pytest.fixture(scope="module")
def s3_port(tmp_path_factory: pytest.TempPathFactory, identities: weed.S3Identities) -> Iterator[int]:
    """A SeaweedFS that was started with the sample, and has two buckets with the sample policies."""
    folder = tmp_path_factory.mktemp("samples")
    ports, launcher, log = Ports(folder / "ports.json"), Launcher(), folder / "weed.log"

    def make() -> ServerSpec:
        spec = weed.make_spec(
            folder / "weed", ports, identities, lambda what, done: launcher.run_until(what, log, done)
        )
        sample = (DEPLOY / "seaweedfs" / "s3.json").read_bytes()
        (folder / "weed" / "settings" / "s3.json").write_bytes(sample)
        return spec

    server = Server("weed", make, log=log, launcher=launcher, state=State(folder / "state.json"))
    try:
        server.start()
        port = ports.get("weed.s3")
        for bucket, name in POLICIES.items():
            policy = json.loads((DEPLOY / "seaweedfs" / name).read_text())
            weed.make_bucket(port, identities.admin, bucket, policy)
        yield port
    finally:
        server.stop()
        launcher.close()


@pytest.mark.parametrize(
    ("who", "bucket", "allowed"),
    [
        ("lander", "landing", {"PUT", "GET", "DELETE"}),
        ("loader", "landing", {"GET"}),
        ("janitor", "landing", set[str]()),
        ("lander", "lake", set[str]()),
        ("loader", "lake", {"PUT", "GET"}),
        ("janitor", "lake", {"GET", "DELETE"}),
    ],
)
def test_each_identity_may_do_its_own_part(
    s3_port: int, identities: weed.S3Identities, who: str, bucket: str, allowed: set[str]
) -> None:
    identity: S3Identity = getattr(identities, who)
    path = f"/{bucket}/data/{who}"
    assert weed.s3_request(s3_port, identities.admin, "PUT", path, b"1")[0] == 200
    answers = {
        method: weed.s3_request(s3_port, identity, method, path, b"2" if method == "PUT" else b"")[0]
        for method in ("PUT", "GET", "DELETE")
    }
    assert {method for method, status in answers.items() if status < 300} == allowed, answers
    assert {status for status in answers.values() if status >= 300} <= {403}, answers


def test_the_samples_are_what_the_embedded_stack_uses(identities: weed.S3Identities) -> None:
    for bucket, make in (("landing", weed.landing_policy), ("lake", weed.lake_policy)):
        assert json.loads((DEPLOY / "seaweedfs" / POLICIES[bucket]).read_text()) == make(bucket, identities)
    assert set(asdict(identities)) == {"admin", "lander", "loader", "janitor"}


async def test_the_role_of_the_catalog_passes_the_check(stack: Stack, tenant: Tenant) -> None:
    text = (DEPLOY / "postgres" / "catalog.sql").read_text()
    with stack.connect() as connection:
        for statement in text.split(";\n"):
            connection.execute(statement.encode())
    settings = load_settings(
        tenant.env()
        | {
            "LOTUS_CATALOG_USER": "ducklake",
            "LOTUS_CATALOG_DATABASE": "ducklake",
            "LOTUS_CATALOG_PASSWORD": "replace-this-password",
        }
    )
    finding = await check_postgres(settings)
    assert finding.status == "ok", finding
