"""How much of the crash matrix is run: `pytest tests/faults --faults=5`; without it only the sample of `make test`."""

from pathlib import Path

import pytest

from tests.bucketful import removing_project
from tests.faults.record import Book


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options; in a run of all tests they are unknown, which means their defaults."""
    parser.addoption(
        "--faults", type=int, default=0, help="run the whole crash matrix, so many rounds of deaths"
    )
    parser.addoption(
        "--faults-record", default=None, help="a file that one JSON line is appended to for each test"
    )


def rounds(config: pytest.Config) -> int:
    """How many rounds were asked for; 0 in a run of all tests."""
    return int(config.getoption("--faults", default=0) or 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test of the matrix with the argument `seed` one seed for each round."""
    if "seed" in metafunc.fixturenames and metafunc.definition.get_closest_marker("faults"):
        metafunc.parametrize("seed", range(1, max(1, rounds(metafunc.config)) + 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked `faults` unless it is asked for."""
    if rounds(config) == 0:
        matrix = [item for item in items if item.get_closest_marker("faults")]
        config.hook.pytest_deselected(items=matrix)
        items[:] = [item for item in items if item not in matrix]


@pytest.fixture
def book(request: pytest.FixtureRequest) -> Book:
    """Where a test writes what its fault cost."""
    path = request.config.getoption("--faults-record", default=None)
    return Book(Path(path) if path else None)


@pytest.fixture(scope="session")
def project_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, with two streams whose rows go with their objects."""
    return removing_project(tmp_path_factory.mktemp("project"))
