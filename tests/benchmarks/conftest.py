"""How large the benchmarks' runs are: `pytest tests/benchmarks/test_bench_freshness.py --bench-scale=0.05`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option; in a run of all tests it is unknown, which means its default."""
    parser.addoption(
        "--bench-scale", type=float, default=1.0, help="the share of a benchmark's full size that is run"
    )


@pytest.fixture(scope="session")
def bench_scale(request: pytest.FixtureRequest) -> float:
    """The share of its full size that a benchmark runs, for those that have a small form."""
    return float(request.config.getoption("--bench-scale", default=1.0) or 1.0)
