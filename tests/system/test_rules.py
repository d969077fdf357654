"""The rules of deploy/prometheus/, judged by promtool: they are valid, and each alert fires when it should."""

from pathlib import Path

import pytest

from tests.system.rules import ALERTS, CASES, PROMETHEUS, RULES, Case, promtool, unit_tests


def test_rules_and_configuration_are_valid() -> None:
    for arguments in (("rules", str(RULES)), ("config", str(PROMETHEUS / "prometheus.yml"))):
        done = promtool("check", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_what_fires(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "tests.yml"
    file.write_text(unit_tests([case], RULES))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_to_fire() -> None:
    assert {name for each in CASES for name in each.fires} == set(ALERTS)
