"""The documents name only commands, options, settings and sections that there are, and errors as they are told."""

import re
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.core import TyperGroup

from consumer.cli import app
from consumer.errors import SettingsError
from consumer.settings import known_variables, load_settings
from consumer.verdict import Dead, Ending, Policy, decide_verdict
from feeders.parquet_limits import BadFileReason
from tests.documents import DOCS, FOLLOWED, NOT_RUN, blocks

ROOT = DOCS.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")))
TROUBLE = (DOCS / "troubleshooting.md").read_text()

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)


@each_document
def test_each_command_and_option_is_one(path: Path) -> None:
    """Of commands in backquotes, and of lines of a block that begin with one."""
    text = path.read_text()
    found = re.findall(r"`lotus-lake ([a-z][^`|&;>]*)`", text)
    found += re.findall(r"^(?:\$ |LOTUS_\S+ )*lotus-lake ([a-z][^\n|&;>]*)$", text, re.MULTILINE)
    assert {command for command in found if why_wrong(command.split())} == set()


def why_wrong(words: list[str]) -> str | None:
    """Says what is no command or no option in the words behind `lotus-lake`."""
    group = typer.main.get_command(app)
    while isinstance(group, TyperGroup) and words:
        if words[0] not in group.commands:
            return "no such command"
        group, words = group.commands[words[0]], words[1:]
    if isinstance(group, TyperGroup):
        return None
    options = {name for each in group.params for name in each.opts} | {"--help"}
    return next((word for word in words if word.startswith("--") and word not in options), None)


@each_document
def test_each_block_is_run_or_says_why_not(path: Path) -> None:
    """What a document that is followed does not say, `tests.following` refuses."""
    for block in blocks(path):
        assert block.language, f"{block.place}: a block without a language"
        if block.language not in ("sh", "console") or path.name in FOLLOWED:
            continue
        assert block.words, f"{block.place}: which test runs it?"
        assert block.words[0] in NOT_RUN or (ROOT / block.words[0]).is_file(), block.place


@each_document
def test_each_setting_is_one(path: Path) -> None:
    named = set(re.findall(r"\bLOTUS_[A-Z0-9_]+[A-Z0-9]\b(?!_?…)", path.read_text()))
    others = {"LOTUS_LAKE_SERVICE_HOST", "LOTUS_TYPO"}
    assert named - known_variables() <= others


@each_document
def test_each_link_leads_somewhere(path: Path) -> None:
    wrong: list[str] = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        name, _, section = link.partition("#")
        target = path.parent / name if name else path
        if "://" in link:
            continue
        if not target.exists() or (section and section not in anchors(target)):
            wrong.append(link)
    assert not wrong


def anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#{1,6} (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_links_to_every_document() -> None:
    text = (ROOT / "README.md").read_text()
    assert {path.name for path in DOCS.glob("*.md")} <= set(re.findall(r"\(docs/([\w-]+\.md)", text))


def test_every_reason_of_a_dead_letter_has_its_line() -> None:
    ways_to_die = {
        ending.value
        for ending in Ending
        if decide_verdict(ending, attempts=99, policy=Policy(), jitter=0.5) == Dead()
    }
    reasons = (ways_to_die - {"poison"}) | set(get_args(BadFileReason))
    assert first_cells("reason") == reasons


def test_what_it_says_is_said() -> None:
    """Each text that stands under "it says" is in the code, up to its `…`."""
    code = "".join(
        path.read_text() for folder in ("consumer", "feeders") for path in (ROOT / folder).rglob("*.py")
    )
    told = first_cells("it says")
    assert len(told) > 15
    with pytest.raises(SettingsError) as missing:
        load_settings({})
    code += str(missing.value)
    assert {text for text in told if not all(part in code for part in text.split("…"))} == set()


def first_cells(header: str) -> set[str]:
    """What stands in backquotes in the first column of the tables with this header."""
    tables = re.findall(rf"^\| {header} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TROUBLE, re.MULTILINE)
    return {text for table in tables for text in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)}
