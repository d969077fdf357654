"""The tables of the crash matrix: `python -m tests.faults.report BOOK…` prints them.

A book is the file of one run of `make faults`. With --keep these books replace those in tests/faults/books/, and
their tables go into docs/reliability.md.
"""

import argparse
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from feeders.fault import POINTS
from tests.faults.record import Fault, Record, read_book

RELIABILITY = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BOOKS = Path(__file__).with_name("books")
BEGIN, END = "<!-- tables: make faults -->\n", "<!-- end of tables -->"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One fault's row: sums of kills, restarts and files, and the seconds of each recovery."""

    fault: Fault
    kills: int
    restarts: int
    files: int
    recovery_s: Sequence[float]
    detail: Counter[str]

    def cells(self) -> tuple[str, ...]:
        """What the table shows."""
        seconds = self.recovery_s
        middle, most = (f"{median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("", "")
        notes = ", ".join(f"{count:,} {name}" for name, count in sorted(self.detail.items()) if count)
        return (
            self.fault.value,
            f"{self.kills:,}",
            f"{self.restarts:,}",
            f"{self.files:,}",
            middle,
            most,
            notes,
        )


def sum_up(records: Sequence[Record]) -> list[Line]:
    """One line for each fault that was tried, in the order of `Fault`."""
    lines: list[Line] = []
    for fault in Fault:
        found = [record for record in records if record.fault is fault]
        detail: Counter[str] = Counter()
        for record in found:
            detail.update(record.detail)
        if found:
            lines.append(
                Line(
                    fault=fault,
                    kills=sum(record.kills for record in found),
                    restarts=sum(record.restarts for record in found),
                    files=sum(record.files for record in found),
                    recovery_s=[seconds for record in found for seconds in record.recovery_s],
                    detail=detail,
                )
            )
    return lines


def tables(books: Sequence[Sequence[Record]]) -> Iterator[str]:
    """The Markdown of both tables: what each fault cost, and the deaths at each step."""
    records = [record for book in books for record in book]
    yield f"Sums of {len(books)} run{'s' * (len(books) != 1)} of `make faults`."
    yield ""
    yield "| fault | kills | restarts | files | seconds to recover, median | most | of them |"
    yield "|---|---|---|---|---|---|---|"
    for line in sum_up(records):
        yield f"| {' | '.join(line.cells())} |"
    deaths: Counter[str] = Counter()
    for record in records:
        deaths.update(record.points)
    if deaths:
        yield ""
        yield "| the consumer died at | times |"
        yield "|---|---|"
        for point in POINTS:
            yield f"| {point} | {deaths[point]} |"


def written(text: str, body: str) -> str:
    """The page's text with these tables between its markers."""
    pattern = re.compile(rf"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", re.DOTALL)
    assert len(pattern.findall(text)) == 1, f"expected one place between {BEGIN.strip()} and {END}"
    return pattern.sub(lambda _: f"\n{body}\n\n", text)


def kept_books() -> list[list[Record]]:
    """The books that the page's tables are made of."""
    return [read_book(path) for path in sorted(BOOKS.glob("*.jsonl"))]


def keep(paths: Sequence[Path]) -> None:
    """Puts these books into the place of those that are kept, and their tables on the page."""
    texts = {path.name: path.read_text() for path in paths}
    shutil.rmtree(BOOKS, ignore_errors=True)
    BOOKS.mkdir()
    for name, text in texts.items():
        (BOOKS / name).write_text(text)
    RELIABILITY.write_text(written(RELIABILITY.read_text(), rendered(kept_books())))


def rendered(books: Sequence[Sequence[Record]]) -> str:
    """The tables as text."""
    return "\n".join(tables(books))


def main() -> None:
    """Prints the tables of these books, or keeps them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help=f"keep the books, their tables in {RELIABILITY.name}"
    )
    parser.add_argument("books", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.keep:
        keep(arguments.books)
    else:
        print(rendered([read_book(path) for path in arguments.books]))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
