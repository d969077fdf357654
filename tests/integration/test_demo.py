"""`lotus-lake demo`: its exit status and last line say whether all is well, and they are not always yes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from consumer import demo
from consumer.cli import app
from consumer.demo import Report, StreamReport, percentile
from consumer.landing.compare import Difference
from consumer.settings import Settings, inherited_environment
from feeders.lake import Lake

KEYS = [
    "ok",
    "files_landed",
    "files_loaded",
    "rows_landed",
    "rows_loaded",
    "fct_sales_rows",
    "fct_sales_equal",
    "fct_customer_engagement_rows",
    "fct_customer_engagement_equal",
    "put_to_staging_ms_p50",
    "put_to_staging_ms_p99",
    "put_to_fct_ms_p50",
    "put_to_fct_ms_p99",
]
TIMEOUT_S = 115


def test_the_demo_ends_well() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "consumer.cli", "demo", "--files", "12"],
        env=inherited_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert list(last) == KEYS
    assert last["ok"] is True
    assert last["fct_sales_equal"] is True
    assert last["files_landed"] == last["files_loaded"] >= 12
    assert last["rows_landed"] == last["rows_loaded"] > 0
    assert last["fct_sales_rows"] > 0
    assert last["fct_customer_engagement_rows"] > 0
    assert last["fct_customer_engagement_equal"] is True
    assert 0 < last["put_to_staging_ms_p50"] <= last["put_to_staging_ms_p99"]
    assert 0 < last["put_to_fct_ms_p50"] <= last["put_to_fct_ms_p99"]
    for stream in ("shopify.orders", "klaviyo.events"):
        assert stream in result.stdout


@pytest.fixture
def sigterm_restored() -> Iterator[None]:
    """The command sets a handler of its own, here in the tests' process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm_restored")
def test_a_lake_that_lost_a_row_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = demo.report

    def after_sabotage(settings: Settings, *arguments: Any) -> Report:
        lake = Lake(settings.lake("r-sabotage"))
        lake.query("DELETE FROM main.fct_sales WHERE order_id = (SELECT min(order_id) FROM main.fct_sales)")
        lake.query("UPDATE main.fct_customer_engagement SET events = events + 1")
        lake.close()
        return honest(settings, *arguments)

    monkeypatch.setattr(demo, "report", after_sabotage)
    result = CliRunner().invoke(app, ["demo", "--files", "9"])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.output
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["ok"], last["fct_sales_equal"], last["fct_customer_engagement_equal"]) == (False,) * 3
    assert last["files_landed"] == last["files_loaded"]
    assert last["rows_landed"] == last["rows_loaded"]
    assert "missing: 1 rows" in result.stdout


def difference(table: str, *, missing: tuple[int | str, ...]) -> Difference:
    return Difference(
        table=table,
        expected_rows=3,
        found_rows=3,
        missing=missing,
        unexpected=(),
        repeated=(),
        by_column={},
    )


def report(
    *,
    rows_loaded: int = 10,
    files_loaded: int = 2,
    missing: tuple[int, ...] = (),
    missing_profiles: tuple[str, ...] = (),
    dead_letters: int = 0,
    consumer_status: int | None = 0,
) -> Report:
    return Report(
        streams=(
            StreamReport(
                stream="shopify.orders",
                files=1,
                rows_landed=10,
                rows_loaded=rows_loaded,
                put_to_staging_ms=1.0,
                put_to_fct_ms=2.0,
            ),
            StreamReport(
                stream="klaviyo.lists",
                files=1,
                rows_landed=10,
                rows_loaded=20 - rows_loaded,
                put_to_staging_ms=1.0,
                put_to_fct_ms=None,
            ),
        ),
        files_landed=2,
        files_loaded=files_loaded,
        sales=difference("fct_sales", missing=missing),
        engagement=difference("fct_customer_engagement", missing=missing_profiles),
        put_to_staging_ms=(1.0,),
        put_to_fct_ms=(),
        sample=(),
        seconds=1.0,
        dead_letters=dead_letters,
        versions_not_seen=0,
        consumer_status=consumer_status,
    )


def test_a_report_is_ok_only_if_every_stream_and_every_row_is() -> None:
    assert report().ok
    # The sum is right, the streams are not.
    assert report(rows_loaded=11).rows_loaded == report().rows_landed
    assert not report(rows_loaded=11).ok
    assert not report(files_loaded=1).ok
    assert not report(missing=(7,)).ok
    assert not report(missing_profiles=("01A",)).ok
    assert not report(dead_letters=1).ok
    assert not report(consumer_status=1).ok
    assert not report(consumer_status=None).ok
    assert list(report().as_json()) == KEYS
    assert report().as_json()["put_to_fct_ms_p99"] is None


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile((), 0.5) is None
    assert percentile((3.0,), 0.99) == 3.0
    hundred = tuple(float(number) for number in range(100, 0, -1))
    assert (percentile(hundred, 0.5), percentile(hundred, 0.99)) == (50.0, 99.0)
    assert percentile((1.04, 2.0), 0.5) == 1.0
