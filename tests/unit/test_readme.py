"""README says what the code says."""

import re
from pathlib import Path

import pytest

from tests.readme import README, TABLES, rendered, settings

ROOT = README.parent


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name)
def test_the_tables_are_up_to_date(path: Path) -> None:
    assert rendered(path) == path.read_text(), f"the code and {path.name} differ: run `make docs`"


def test_each_number_has_a_unit() -> None:
    rows = [line.split(" | ") for line in settings() if "number" in line]
    assert len(rows) > 30
    assert {name for name, _, _, unit, _ in rows if not unit.strip() and "_PORT`" not in name} == set()


def test_what_it_names_is_there() -> None:
    """Links, make targets and paths in backquotes that end with a file name or a slash."""
    text = README.read_text() + (ROOT / "docs" / "architecture.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    paths = set(
        re.findall(
            r"`((?:consumer|feeders|ddl|transforms|deploy|tests|docs)/[\w./-]*(?:/|\.(?:py|sql|json|md)))`",
            text,
        )
    )
    assert links
    assert paths
    missing = {
        name for name in links | paths if not (ROOT / name).exists() and not (ROOT / "docs" / name).exists()
    }
    assert not missing
