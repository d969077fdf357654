"""Only consumer/settings.py reads the environment."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def uses_of_environment(source: str) -> list[int]:
    """The lines that name the process's environment, as `os.environ` or imported by name."""
    lines: list[int] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=attr) if attr in NAMES:
                lines.append(node.lineno)
            case ast.ImportFrom(module="os", names=names) if any(each.name in NAMES for each in names):
                lines.append(node.lineno)
            case ast.Import(names=names) if any(each.name == "os" and each.asname for each in names):
                lines.append(node.lineno)  # under another name it could not be followed
            case _:
                pass
    return lines


def test_only_settings_reads_the_environment() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for package in ("consumer", "feeders")
        for path in sorted((ROOT / package).rglob("*.py"))
        if (lines := uses_of_environment(path.read_text()))
    }
    assert list(found) == ["consumer/settings.py"], f"read it in consumer/settings.py, not in {found}"


@pytest.mark.parametrize(
    "source",
    [
        "import os\nx = os.environ['A']",
        "import os\nx = os.getenv('A')",
        "from os import environ",
        "from os import path, getenv as g",
        "import os as o",
    ],
)
def test_every_spelling_is_found(source: str) -> None:
    assert uses_of_environment(source)


def test_other_uses_of_os_are_not() -> None:
    assert uses_of_environment("import os\nos.kill(os.getpid(), 0)\nenviron = 1") == []
