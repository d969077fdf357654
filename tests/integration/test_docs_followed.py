"""The documents do what they say: each is followed to the letter, in one lake, in the order in which they are meant."""

import json
import re
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.documents import DOCS
from tests.following import Reader

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("reader") / "home")
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def started(reader: Reader) -> Reader:
    """Has followed docs/getting-started.md."""
    reader.follow(DOCS / "getting-started.md")
    return reader


def test_getting_started(started: Reader) -> None:
    assert started.connect_sql.exists()


@pytest.fixture(scope="module")
def flowing(started: Reader) -> Reader:
    """Has followed docs/adding-a-flow.md, whose service goes on running."""
    started.follow(DOCS / "adding-a-flow.md")
    return started


def test_adding_a_flow(flowing: Reader) -> None:
    """What the document's table says of the dashboards: the panel asks for the metric, and the metric is there."""
    text = (DOCS / "adding-a-flow.md").read_text()
    rows = re.findall(r"^\| `(lotus_lake_\w+)` \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) >= 10
    panels, served = panels_of_dashboards(), metrics_of_the_flow(flowing)
    for metric, dashboard, panel in rows:
        assert metric in panels[dashboard, panel], f"{panel} of {dashboard} does not ask for {metric}"
        assert any(name.startswith(metric) for name in served), f"the new flow has no {metric}"


def panels_of_dashboards() -> dict[tuple[str, str], str]:
    """What each panel asks for, by the titles of dashboard and panel."""
    found: dict[tuple[str, str], str] = {}
    for path in (DOCS.parent / "deploy" / "grafana" / "dashboards").glob("*.json"):
        board = json.loads(path.read_text())
        title = board["title"].removeprefix("lotus-lake / ")
        for panel in board["panels"]:
            asked = " ".join(target["expr"] for target in panel.get("targets", []))
            found[title, panel["title"]] = found.get((title, panel["title"]), "") + asked
    return found


def metrics_of_the_flow(reader: Reader) -> set[str]:
    """The names of all samples that the service has with the labels of the new stream or its models."""
    page = f"http://127.0.0.1:{reader.consumer_variables()['LOTUS_HTTP_PORT']}/metrics"
    with urllib.request.urlopen(page, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        sample.name
        for family in families
        for sample in family.samples
        if (sample.labels.get("source"), sample.labels.get("stream")) == ("billing", "invoices")
        or sample.labels.get("model") in ("int_billing__invoices", "fct_revenue")
    }


def test_ducklake_metadata(flowing: Reader) -> None:
    """Each of its statements returns rows, and it names every table that there is."""
    flowing.follow(DOCS / "ducklake-metadata.md")
    text = (DOCS / "ducklake-metadata.md").read_text()
    named = set(re.findall(r"`(ducklake_\w+|meta\.\w+)`", text))
    assert tables_of_the_catalog(flowing) == named
    _, _, others = text.partition("### The other tables")
    empty = re.findall(r"`(ducklake_\w+)`", others)
    assert len(empty) == 12
    asked = " UNION ALL ".join(f"SELECT '{name}' FROM {name}" for name in empty)
    assert flowing.ask_postgresql(asked) == []


def tables_of_the_catalog(reader: Reader) -> set[object]:
    """DuckLake's tables in PostgreSQL, and ours in the lake's schema meta."""
    rows = reader.ask_postgresql(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        " UNION SELECT 'meta.' || table_name FROM ducklake_table JOIN ducklake_schema USING (schema_id)"
        " WHERE schema_name = 'meta'"
    )
    return {name for (name,) in rows}


def test_troubleshooting(flowing: Reader) -> None:
    flowing.follow(DOCS / "troubleshooting.md")
