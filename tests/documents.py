"""The fenced blocks of a document, and what their info strings say of them.

A block is run by a test, or says why it is not:

    sh              run in the reader's second terminal, in the documents that a test follows
    sh wait         the same, again and again until it prints what the text block behind it shows
    sh terminal-1   run in the first terminal, where it stays until Ctrl-C
    sh TEST.py      that test does it, or takes it from the text
    sh install      not run: whoever runs the tests has done it
    sh make         not run: targets of make, which .ci/run and people call
    sh cluster      not run: needs Kubernetes, or an engine for containers
    sh tool         not run: needs a program that is no part of this project
    console TEST.py commands with what they printed once; that test is of these commands
    text            what the block above it prints; `…` stands for anything, on a line of its own for lines
    text ctrl-c     Ctrl-C in the first terminal, and what is printed then
    <language> PATH a file that the reader saves
    sql duckdb      run with the lake attached; returns rows
    sql postgresql  run in the catalog's database; returns rows
"""

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLLOWED = ("getting-started.md", "adding-a-flow.md", "ducklake-metadata.md", "troubleshooting.md")
"""The documents that tests/integration/test_docs_followed.py follows, in this order."""

NOT_RUN = frozenset({"install", "make", "cluster", "tool"})
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block. `place` says where it stands, for whoever has to mend it."""

    language: str
    words: tuple[str, ...]
    text: str
    place: str

    @property
    def file(self) -> str | None:
        """The path that the block is to be saved as, if it is a file."""
        is_file = self.language not in ("sh", "console") and self.words and "." in self.words[0]
        return self.words[0] if is_file else None

    def has(self, word: str) -> bool:
        """Says whether its info string has this word."""
        return word in self.words

    def is_output(self) -> bool:
        """Says whether it shows what the block above it prints."""
        return self.language == "text" and not self.words


def blocks(document: Path) -> list[Block]:
    """The blocks of a document, in its order."""
    whole = document.read_text()
    return [
        Block(
            language=(info.split() or [""])[0],
            words=tuple(info.split()[1:]),
            text=text,
            place=f"{document.name}:{whole.count(chr(10), 0, found.start()) + 1}",
        )
        for found in _FENCE.finditer(whole)
        for info, text in [found.groups()]
    ]


def shows(block: Block, printed: str) -> bool:
    """Says whether a block of output has what was printed, but for what its `…` stand for."""
    lines = [
        r"(?s:.*?)" if line.strip() == "…" else re.escape(line.rstrip()).replace("…", ".*")
        for line in block.text.strip().splitlines()
    ]
    found = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return re.fullmatch("\n".join(lines), found) is not None
