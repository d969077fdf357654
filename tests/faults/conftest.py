"""How often the whole matrix of deaths is run: `pytest tests/faults --kill-runs=10`, else not at all."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option; in a run of all tests it is unknown, which means 0."""
    parser.addoption(
        "--kill-runs",
        type=int,
        default=0,
        help="runs of a landing whose consumer is killed at each point of the walk",
    )


def kill_runs(config: pytest.Config) -> int:
    """The option's value."""
    return int(config.getoption("--kill-runs", default=0) or 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test with the argument `seed` one seed for each run."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(1, max(1, kill_runs(metafunc.config)) + 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the matrix out unless it is asked for; the few deaths of `make test` stay."""
    if kill_runs(config) == 0:
        matrix = [item for item in items if item.name.startswith("test_a_death_at_each_point[")]
        config.hook.pytest_deselected(items=matrix)
        items[:] = [item for item in items if item not in matrix]
