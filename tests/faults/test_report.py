"""The tables of docs/reliability.md: made from the books of the runs, and complete."""

from collections import Counter
from pathlib import Path

from feeders.fault import POINTS
from tests.faults.record import Book, Fault, Record, read_book
from tests.faults.report import BEGIN, END, RELIABILITY, kept_books, rendered, tables, written


def test_the_books_of_some_runs_are_summed_up(tmp_path: Path) -> None:
    for run, seconds in enumerate(([1.0, 3.0], [8.0])):
        book = Book(tmp_path / f"{run}.jsonl")
        for fault, points in ((Fault.LAKE_FULL, {}), (Fault.DEATH, {"begun": 2, "got": 1})):
            book.write(
                Record(
                    fault=fault,
                    kills=600,
                    restarts=1,
                    files=10,
                    recovery_s=seconds,
                    points=points,
                    detail={"broken": 2, "deleted": 0},
                )
            )
    body = "\n".join(tables([read_book(tmp_path / f"{run}.jsonl") for run in range(2)]))
    assert "Sums of 2 runs" in body
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert f"| {Fault.DEATH} | 1,200 | 2 | 20 | 3.0 | 8.0 | 4 broken |" in rows
    assert body.index(Fault.DEATH) < body.index(Fault.LAKE_FULL), "the order is that of Fault"
    assert "| begun | 4 |" in rows
    assert "| got | 2 |" in rows
    page = written(f"before\n{BEGIN}old\n{END}\nafter\n", body)
    assert body in page
    assert "old" not in page
    assert page.startswith("before")
    assert page.endswith("after\n")


def test_a_book_that_is_no_file_is_not_written() -> None:
    Book(None).write(Record(fault=Fault.MACHINE, kills=1, restarts=1, files=1, recovery_s=[]))


def test_the_page_has_the_tables_of_the_books_that_are_kept() -> None:
    """And each run tried every fault, and each step five times."""
    books = kept_books()
    page = RELIABILITY.read_text()
    assert page == written(page, rendered(books)), "run python -m tests.faults.report --keep BOOK…"
    for book in books:
        assert {record.fault for record in book} == set(Fault)
        deaths = sum((Counter(record.points) for record in book), Counter[str]())
        assert {point: count for point in POINTS if (count := deaths[point]) < 5} == {}
