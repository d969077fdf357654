"""The rules of deploy/prometheus/ as promtool is asked about them: series in, alerts out."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "rules.yml"
ALERTS = tuple(re.findall(r"^\s*- alert: (\w+)$", RULES.read_text(), re.MULTILINE))

ORDERS = '{source="shopify",stream="orders"}'
HOURS = "x240"

HEALTHY = {
    "lotus_lake_is_writer": f"1+0{HOURS}",
    'lotus_lake_dependency_up{dependency="nats"}': f"1+0{HOURS}",
    'lotus_lake_dependency_up{dependency="s3"}': f"1+0{HOURS}",
    f"lotus_lake_pending_keys{ORDERS}": f"3+0{HOURS}",
    f"lotus_lake_oldest_pending_seconds{ORDERS}": f"5+0{HOURS}",
    f"lotus_lake_stream_blocked{ORDERS}": f"0+0{HOURS}",
    f"lotus_lake_removals_held_keys{ORDERS}": f"0+0{HOURS}",
    "lotus_lake_gap_timestamp_seconds": f"0+0{HOURS}",
    'lotus_lake_model_failing{model="fct_sales"}': f"0+0{HOURS}",
    'lotus_lake_model_mismatch_rows{model="fct_sales"}': f"0+0{HOURS}",
    'lotus_lake_check_rows{check="null_keys",severity="error"}': f"0+0{HOURS}",
    'lotus_lake_check_rows{check="odd_amounts",severity="warn"}': f"7+0{HOURS}",
    'lotus_lake_maintenance_errors_total{step="merge"}': f"0+0{HOURS}",
    'lotus_lake_table_small_files{table="staging.stg_shopify__orders"}': f"40+0{HOURS}",
    "lotus_lake_spool_bytes": f"1000+0{HOURS}",
    "lotus_lake_spool_max_bytes": f"1000000+0{HOURS}",
    "lotus_lake_spool_disk_free_bytes": f"5000000+0{HOURS}",
}
"""Four hours, a sample a minute, of a service with which nothing is wrong."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What differs from a healthy service, and which alerts fire then at this minute."""

    what: str
    series: Mapping[str, str]
    minute: int
    fires: Sequence[str]


def case(what: str, minute: int, series: Mapping[str, str], *fires: str) -> Case:
    """A case, written short."""
    return Case(what=what, series=series, minute=minute, fires=fires)


DEAD = 'lotus_lake_dead_letters_total{source="shopify",stream="orders",reason="not_parquet"}'
MISSING = f"lotus_lake_sweep_missing_total{ORDERS}"
NATS_UP = 'lotus_lake_dependency_up{dependency="nats"}'
BLOCKED = f"lotus_lake_stream_blocked{ORDERS}"
HELD = f"lotus_lake_removals_held_keys{ORDERS}"
OLDEST = f"lotus_lake_oldest_pending_seconds{ORDERS}"
FAILING = 'lotus_lake_model_failing{model="fct_sales"}'
MISMATCH = 'lotus_lake_model_mismatch_rows{model="fct_sales"}'
CHECK = 'lotus_lake_check_rows{check="null_keys",severity="error"}'
ERRORS = 'lotus_lake_maintenance_errors_total{step="merge"}'
SMALL = 'lotus_lake_table_small_files{table="staging.stg_shopify__orders"}'
FREE = "lotus_lake_spool_disk_free_bytes"

CASES = (
    case("nothing is wrong", 200, {}),
    case("no process is there", 5, dict.fromkeys(HEALTHY, "_"), "LotusLakeNoWriter"),
    case("only a standby is there", 10, {"lotus_lake_is_writer": "1x5 0x20"}, "LotusLakeNoWriter"),
    case("a takeover takes a minute", 6, {"lotus_lake_is_writer": "1x5 0 1x20"}),
    case("NATS is away", 10, {NATS_UP: "1x5 0x20"}, "LotusLakeDependencyDown"),
    case("NATS was away for a minute", 8, {NATS_UP: "1x5 0 1x20"}),
    case("the queue grows old", 30, {OLDEST: "0+60x60"}, "LotusLakeBehind"),
    case("the queue is old for a moment", 8, {OLDEST: "0x5 700x2 5x20"}),
    case("a sweep finds objects", 190, {MISSING: "0x180 4x60"}, "LotusLakeMissedNotifications"),
    case("it finds the first ones ever", 190, {MISSING: "_x180 4x60"}, "LotusLakeMissedNotifications"),
    case("it found some long ago", 200, {MISSING: "0x60 4x150"}),
    case(
        "a sweep after a gap finds objects",
        70,
        {MISSING: "0x60 4x60", "lotus_lake_gap_timestamp_seconds": "0x60 3600x60"},
    ),
    case("a file is dead", 65, {DEAD: "2x60 3x60"}, "LotusLakeDeadLetters"),
    case("the first file is dead", 65, {DEAD: "_x60 1x60"}, "LotusLakeDeadLetters"),
    case("files died before", 90, {DEAD: "_x60 1x60"}),
    case("a stream is blocked", 20, {BLOCKED: "0x5 1x30"}, "LotusLakeStreamBlocked"),
    case("a stream was blocked for a moment", 8, {BLOCKED: "0x5 1x2 0x30"}),
    case("removals wait", 20, {HELD: "0x5 120x30"}, "LotusLakeRemovalsHeld"),
    case("removals were confirmed", 20, {HELD: "0x5 120x5 0x30"}),
    case("a model fails", 20, {FAILING: "0x5 1x30"}, "LotusLakeModelFailing"),
    case("a model failed once", 20, {FAILING: "0x5 1x2 0x30"}),
    case("a sample is wrong", 30, {MISMATCH: "0x10 2 0x60"}, "LotusLakeModelWrong"),
    case("a sample was wrong, and was mended", 90, {MISMATCH: "0x10 2 0x100"}),
    case("a check returns rows", 30, {CHECK: "0x10 2x60"}, "LotusLakeCheckFailing"),
    case("a check of severity warn returns rows", 30, {}),
    case("merges fail", 60, {ERRORS: "0x10 1+1x80"}, "LotusLakeUnhealthy"),
    case("a merge failed once", 60, {ERRORS: "0x10 1x80"}),
    case("small files become many", 60, {SMALL: "40x10 5000x80"}, "LotusLakeUnhealthy"),
    case("the spool's disk is full", 30, {FREE: "5000000x5 900000x60"}, "LotusLakeDiskFull"),
    case("the spool's disk has just enough", 30, {FREE: "5000000x5 1000001x60"}),
)


def unit_tests(cases: Sequence[Case], rules: Path) -> str:
    """The cases as a file for `promtool test rules`, which reads YAML, and so JSON."""
    return json.dumps(
        {
            "rule_files": [str(rules)],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "name": each.what,
                    "interval": "1m",
                    "input_series": [
                        {"series": name, "values": values}
                        for name, values in {**HEALTHY, **each.series}.items()
                    ],
                    "promql_expr_test": [
                        {
                            "expr": 'max by (alertname) (ALERTS{alertstate="firing"})',
                            "eval_time": f"{each.minute}m",
                            "exp_samples": [
                                {"labels": f'{{alertname="{name}"}}', "value": 1} for name in each.fires
                            ],
                        }
                    ],
                }
                for each in cases
            ],
        }
    )


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs promtool; a machine without it fails the test."""
    try:
        return subprocess.run(
            ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60
        )
    except FileNotFoundError:
        raise AssertionError(
            "promtool is not installed: `apt-get install prometheus`, or put it into PATH"
        ) from None
