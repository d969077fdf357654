"""What kustomize needs of deploy/prometheus and deploy/grafana, written from them: `make docs` does it.

- deploy/kubernetes/components/monitoring/prometheusrule.yaml: the groups of deploy/prometheus/rules.yml;
- deploy/grafana/kustomization.yaml: a ConfigMap for each dashboard. kustomize reads no file outside of its folder.
"""

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
_HEAD = "# Written by `make docs` from {}.\n"


def prometheus_rule() -> str:
    """The PrometheusRule with all our rules."""
    document: dict[str, Any] = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "lotus-lake"},
        "spec": {"groups": yaml.safe_load(RULES.read_text())["groups"]},
    }
    body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return _HEAD.format("deploy/prometheus/rules.yml") + body


def dashboards() -> str:
    """The kustomization with a ConfigMap for each dashboard; a Grafana's sidecar finds them by their label."""
    paths = sorted(DASHBOARDS.glob("*.json"))
    assert paths, f"no dashboard in {DASHBOARDS}"
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "generatorOptions": {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}},
        "configMapGenerator": [
            {"name": f"lotus-lake-dashboard-{path.stem}", "files": [f"dashboards/{path.name}"]}
            for path in paths
        ],
    }
    return _HEAD.format("deploy/grafana/dashboards") + yaml.safe_dump(document, sort_keys=False, width=110)


WRITTEN = {
    DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml": prometheus_rule,
    DEPLOY / "grafana" / "kustomization.yaml": dashboards,
}
"""Each file that is written, and what it must be."""


if __name__ == "__main__":
    for path, make in WRITTEN.items():
        path.write_text(make())
