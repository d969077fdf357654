"""Alerts, runbook, dashboards and metrics fit together; what Prometheus says of them is in tests/system."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.metrics import Metrics
from consumer.settings import variables_by_field

ROOT = Path(__file__).resolve().parents[2]
RULES = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
BOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
Panel = dict[str, Any]


def panels(path: Path) -> Iterator[Panel]:
    """The panels of a dashboard that show something."""
    yield from (panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row")


def series_names() -> set[str]:
    """The names of all series that the service can have."""
    names: set[str] = set()
    for family in Metrics().registry.collect():
        endings = {
            "counter": ("_total",),
            "info": ("_info",),
            "histogram": ("_bucket", "_sum", "_count"),
        }.get(family.type, ("",))
        names |= {family.name + ending for ending in endings}
    return names


def test_each_alert_has_its_section_and_each_section_its_alert() -> None:
    alerts = re.findall(r"^\s*- alert: (\w+)$", RULES, re.MULTILINE)
    assert re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE) == alerts
    links = re.findall(r"runbook_url: docs/runbook\.md#(\w+)$", RULES, re.MULTILINE)
    assert links == [name.lower() for name in alerts]
    for section in RUNBOOK.split("\n### ")[1:]:
        assert all(word in section for word in ("**Means**", "**Do**", "**Over**")), section.split("\n")[0]


def test_rules_and_dashboards_name_only_metrics_that_there_are() -> None:
    recorded = set(re.findall(r"- record: (\S+)", RULES))
    for name, text in [("rules", RULES), *((each.name, each.read_text()) for each in BOARDS)]:
        named = set(re.findall(r"\blotus_lake_\w+", text))
        assert named, name
        assert named <= series_names(), name
        assert set(re.findall(r"\blotus_lake:\w+(?::\w+)?", text)) <= recorded, name


def test_the_runbook_names_only_settings_and_panels_that_there_are() -> None:
    variables = {variable for names in variables_by_field().values() for variable in names}
    assert set(re.findall(r"LOTUS_[A-Z_0-9]+", RUNBOOK)) <= variables
    titles = {panel["title"] for board in BOARDS for panel in panels(board)}
    titles |= set(re.findall(r'"title": "(?:lotus-lake / )?([^"]+)"', "".join(b.read_text() for b in BOARDS)))
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", RUNBOOK)) - {"Targets"}
    assert named
    assert named <= titles


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_each_panel_has_a_question_a_unit_and_a_way_to_the_runbook(path: Path) -> None:
    headings = re.findall(r"^#{2,3} (.+)$", RUNBOOK, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for panel in panels(path):
        title, defaults = panel["title"], panel["fieldConfig"]["defaults"]
        assert panel["description"], title
        assert defaults["unit"], title
        assert defaults["thresholds"]["steps"][0]["value"] is None, title
        for link in (*panel["links"], *defaults["links"]):
            runbook, _, anchor = link["url"].partition("#")
            assert (runbook, anchor in anchors) == ("${runbook}", True), title
        uids = {each["datasource"]["uid"] for each in (panel, *panel["targets"])}
        assert uids == {"${datasource}"}, title


def test_dashboards_have_names_of_their_own_and_no_panel_lies_on_another() -> None:
    boards = [json.loads(path.read_text()) for path in BOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == 3
    for board in boards:
        cells = [
            (x, y)
            for panel in board["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells)), board["title"]
        assert all(x < 24 for x, _ in cells), board["title"]
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
