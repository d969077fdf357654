"""How a soak is run: `pytest tests/soak --soak-minutes=30`; for a minute in a run of all tests."""

from pathlib import Path

import pytest

from tests.soak.plan import Plan

AROUND_S = 240.0
"""For start and end of any run, and the proof of a short one."""
PROOF_SHARE = 0.5
"""The proof reads all that was landed: it takes longer after a longer run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options; in a run of all tests they are unknown, which means their defaults."""
    parser.addoption("--soak-minutes", type=float, default=1.0, help="how long files land")
    parser.addoption(
        "--soak-record", default=None, help="a file that one JSON line is appended to for each sample"
    )
    parser.addoption(
        "--soak-fault", default=None, help="a fault of tests/soak/broken.py, to see the soak notice it"
    )


def plan_of(config: pytest.Config) -> Plan:
    """What was asked for on the command line."""
    record = config.getoption("--soak-record", default=None)
    return Plan(
        minutes=float(config.getoption("--soak-minutes", default=1.0) or 1.0),
        record=Path(record) if record else None,
        fault=config.getoption("--soak-fault", default=None),
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives a soak the time that it needs."""
    timeout_s = AROUND_S + 60 * plan_of(config).minutes * (1 + PROOF_SHARE)
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(timeout_s))


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> Plan:
    """What was asked for on the command line."""
    return plan_of(request.config)
