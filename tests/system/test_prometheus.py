"""Dashboards and alerts in front of a real Prometheus that scrapes a running consumer."""

import json
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing
from tests.helpers import wait_until
from tests.landed import Bucketful, wait_until_loaded
from tests.processes import ConsumerProcess, consumer_process
from tests.service import order_key, put
from tests.system.prometheus import Prometheus, prometheus
from tests.system.rules import ROOT

BOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "5m",
    "$source": "shopify",
    "$stream": "orders",
}
LINKED = "docs/runbook.md#"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A consumer that has loaded what the demo lands, its Prometheus and its servers."""

    stack: Stack
    consumer: ConsumerProcess
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Generator[Watched]:
    """Files land twice while Prometheus looks on: a rate takes two samples of a series that is there already."""
    folder = tmp_path_factory.mktemp("prometheus")
    tenant = stack.tenant("prometheus")
    bucketful = Bucketful(tenant=tenant, landing=Landing(seed=1, files=None))
    with (
        consumer_process(tenant, folder / "consumer.log") as consumer,
        prometheus(folder, scrapes=tenant.http_port) as server,
    ):
        consumer.wait_until_idle()
        bucketful.land(40, rate=0)
        wait_until_loaded(bucketful)
        seen = 'sum(lotus_lake_put_to_fct_seconds_count{source="shopify",stream="orders"})'
        first = wait_until(lambda: server.query(seen), timeout_s=30, what="a scrape of what is loaded")
        bucketful.land(40, rate=0)
        wait_until_loaded(bucketful)
        wait_until(lambda: value_of(server.query(seen)) > value_of(first), timeout_s=30, what="a second one")
        yield Watched(stack=stack, consumer=consumer, prometheus=server)


def value_of(result: list[dict[str, Any]]) -> float:
    """The one value of a result; 0 if there is none."""
    return float(result[0]["value"][1]) if result else 0.0


def expressions(board: dict[str, Any]) -> dict[str, str]:
    """A dashboard's expressions by panel, with the variables filled in as Grafana does."""
    found = {f"annotation {each['name']}": each["expr"] for each in board["annotations"]["list"]}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {panel['id']}{target['refId']}"] = target["expr"]
    for name, expression in found.items():
        for variable, value in VARIABLES.items():
            found[name] = found[name].replace(variable, value)
        assert "$" not in found[name], expression
    return found


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_each_expression_of_a_dashboard_gives_data(watched: Watched, path: Path) -> None:
    asked = expressions(json.loads(path.read_text()))
    # It parses, but gives something only while an alert fires.
    alerts = asked.pop("annotation Alerts")
    watched.prometheus.query(alerts)
    left = dict(asked)

    def all_have_data() -> bool:
        for name, expression in list(left.items()):
            # A quantile of nothing is NaN: no data either.
            if any(each["value"][1] != "NaN" for each in watched.prometheus.query(expression)):
                del left[name]
        return not left

    try:
        wait_until(all_have_data, timeout_s=45, what="data of every expression")
    except AssertionError as error:
        error.add_note(f"none came for {left}")
        raise


def test_the_variables_of_a_dashboard_offer_values(watched: Watched) -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "stream.json").read_text())
    offered: dict[str, list[str]] = {}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert found
            selector = found[1].replace("$source", "shopify")
            offered[variable["name"]] = watched.prometheus.label_values(found[2], selector)
    assert offered["source"] == ["klaviyo", "shopify"]
    assert offered["stream"] == ["customers", "order_refunds", "orders"]


def test_a_consumer_that_is_well_fires_no_alert_and_one_with_a_broken_file_its_own(watched: Watched) -> None:
    assert not watched.prometheus.firing()
    tenant = watched.stack.tenant("prometheus")
    put(tenant, order_key("broken"), b"no parquet")
    fired = wait_until(watched.prometheus.firing, timeout_s=30, what="an alert")
    assert fired.keys() == {"LotusLakeDeadLetters"}
    labels, notes = fired["LotusLakeDeadLetters"]["labels"], fired["LotusLakeDeadLetters"]["annotations"]
    assert (labels["source"], labels["stream"], labels["severity"]) == ("shopify", "orders", "warning")
    assert notes["summary"].startswith("Files of shopify.orders can't be loaded (")
    assert notes["runbook_url"] == f"{LINKED}lotuslakedeadletters"


def test_when_nats_stops_the_alert_names_it_until_it_is_back(watched: Watched) -> None:
    before = watched.prometheus.firing().keys()
    watched.stack.nats.kill()
    try:
        wait_until(
            lambda: watched.prometheus.firing().keys() - before,
            timeout_s=60,
            what="an alert for the lost NATS",
        )
        fired = watched.prometheus.firing()
        assert fired.keys() - before == {"LotusLakeDependencyDown"}
        assert fired["LotusLakeDependencyDown"]["annotations"]["summary"] == "nats does not answer"
    finally:
        watched.stack.nats.start()
    wait_until(
        lambda: not watched.prometheus.firing().keys() - before, timeout_s=60, what="the alert to be over"
    )
    assert watched.consumer.metric('lotus_lake_reconnects_total{dependency="nats"}') >= 1
