"""What reading a file takes: bombs are refused by the headers of their pages, honest files are not, all of it cheap."""

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feeders.arrow import pa, pq
from feeders.parquet import BadFile, Limits, batch_rows, inspect, verify_pages
from feeders.parquet_columns import Column as ReadColumn
from feeders.parquet_columns import ColumnReader
from feeders.parquet_pages import begin_of, read_pages
from tests.hostile import (
    BYTE_ARRAY,
    RLE_DICTIONARY,
    ZSTD,
    Column,
    Page,
    element,
    longs,
    parquet_of,
    plain_longs,
    run,
    varint,
)

LIMITS = Limits(max_unpacked_bytes=8 * 1024**3)
MIB = 1024**2
CORPUS = Path(__file__).parents[1] / "data" / "parquet"
TEXT = [element("note", leaf=True, physical=BYTE_ARRAY, converted=0)]


def text(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content


def many_pages() -> bytes:
    """1 MB that unpacks to 10 GB."""
    page = Page(content=run(1, 1, width=1) + text(b"x" * (64 * MIB)), values=1, codec=ZSTD)
    note = Column(elements=TEXT, pages=[page], physical=BYTE_ARRAY, repeats=160, unpacked=1000)
    return parquet_of([longs("id", 160), note], rows=160)


def dictionary(size: int, rows: int, *, others: int = 0) -> bytes:
    """One long text that stands in each row; `others` are short ones, which then stand in all rows but one."""
    entries = [text(b"x" * size), *[text(b"y")] * others]
    index = varint((rows - 1) << 1) + b"\1" if others else b""
    first = varint((1 if others else rows) << 1) + b"\0"
    data = run(1, rows, width=1) + b"\1" + first + index
    pages = [
        Page(content=b"".join(entries), values=len(entries), dictionary=True, codec=ZSTD),
        Page(content=data, values=rows, encoding=RLE_DICTIONARY, codec=ZSTD),
    ]
    ids = Column(
        elements=[element("id", leaf=True)], pages=[Page(content=run(0, rows, width=1), values=rows)]
    )
    return parquet_of([ids, Column(elements=TEXT, pages=pages, physical=BYTE_ARRAY)], rows=rows)


def list_of(items: int, *, rows: int = 1) -> bytes:
    """Lists that are runs of levels and nothing else: all items are null."""
    levels = b"".join(varint(1 << 1) + b"\0" + varint((items - 1) << 1) + b"\1" for _ in range(rows))
    levels = len(levels).to_bytes(4, "little") + levels
    values = items * rows
    page = Page(content=levels + run(1, values, width=2), values=values)
    elements = [
        element("l", children=1, converted=3),
        element("list", children=1, repetition=2),
        element("element", leaf=True),
    ]
    return parquet_of([longs("id", rows), Column(elements=elements, pages=[page])], rows=rows)


def lie(**claims: Any) -> Callable[[], bytes]:
    """A file of 5 rows whose second column lies in its footer."""
    return lambda: parquet_of(
        [longs("id", 5), Column(elements=[element("n", leaf=True)], pages=[plain_longs(5)], **claims)], rows=5
    )


def page_lie(**claims: Any) -> Callable[[], bytes]:
    page = replace(plain_longs(5), **claims)
    return lambda: parquet_of([Column(elements=[element("n", leaf=True)], pages=[page])], rows=5)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "1 MB that unpacks to 10 GB": (many_pages, "max_row_group_bytes"),
    "a text of 1 MB in 50 million rows": (lambda: dictionary(MIB, 50_000_000), "max_held_bytes"),
    "a text of 10 KB in 5 million rows": (lambda: dictionary(10_000, 5_000_000), "max_unpacked_bytes"),
    "a list of 2^30 nulls": (lambda: list_of(2**30), "max_held_bytes"),
    "two lists of 10 million nulls": (lambda: list_of(10_000_000, rows=2), "max_held_bytes"),
    "a page that claims 2 GB": (page_lie(claims=2**31 - 1), "max_held_bytes"),
}
LIES: dict[str, Callable[[], bytes]] = {
    "more values than rows": lie(values=6),
    "fewer values than rows": lie(values=4),
    "negative values": lie(values=-1),
    "2^40 values": lie(values=2**40),
    "another column's pages": lie(at=4),
    "pages that begin in the middle of another": lie(at=20),
    "a row group that disagrees with the footer": lambda: parquet_of([longs("id", 5)], rows=5, group_rows=4),
    "row groups of -5 rows": lambda: parquet_of([longs("id", 5)], rows=5, group_rows=-5),
    "a page of fewer values": page_lie(values=4),
    "a page of no values": page_lie(values=0),
    "a page of -1 values": page_lie(values=-1),
    "a page that claims -1 bytes": page_lie(claims=-1),
}

CHECK = """
import resource, sys
from pathlib import Path
from feeders.parquet import BadFile, Limits, inspect, verify_pages
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
path = Path(sys.argv[1])
before = usage()
try:
    verify_pages(path, inspect(path, Limits(max_unpacked_bytes=8 * 1024**3)))
    reason, limit = "fine", ""
except BadFile as error:
    reason, limit = error.reason, error.evidence.get("limit", "")
print(f"{reason},{limit},{(usage().ru_maxrss - before.ru_maxrss) // 1024},{usage().ru_utime - before.ru_utime}")
"""


def check(path: Path) -> tuple[str, str, int, float]:
    """Checks a file and reads all its pages in a process of its own: reason, limit, MiB and seconds that it took."""
    ran = subprocess.run(
        [sys.executable, "-c", CHECK, str(path)], capture_output=True, text=True, check=True, timeout=100
    )
    reason, limit, megabytes, seconds = ran.stdout.strip().split(",")
    return reason, limit, int(megabytes), float(seconds)


@pytest.mark.parametrize("case", sorted(BOMBS))
def test_a_bomb_is_refused_and_takes_no_memory(case: str, tmp_path: Path) -> None:
    make, wanted = BOMBS[case]
    path = tmp_path / "bomb.parquet"
    path.write_bytes(make())
    assert path.stat().st_size < 1.1 * MIB
    reason, limit, megabytes, seconds = check(path)
    assert (reason, limit) == ("over_limit", wanted)
    assert megabytes < 100
    assert seconds < 10


@pytest.mark.parametrize("case", sorted(LIES))
def test_what_contradicts_itself_is_corrupt(case: str, tmp_path: Path) -> None:
    path = tmp_path / "lie.parquet"
    path.write_bytes(LIES[case]())
    with pytest.raises(BadFile) as caught:
        inspect(path, LIMITS)
    assert caught.value.reason == "corrupt"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("packed", [-1, -18, 1000, 2**31 - 1, -(2**31)])
def test_a_page_ends_in_its_chunk_and_not_before_itself(packed: int, tmp_path: Path) -> None:
    path = tmp_path / "page.parquet"
    path.write_bytes(page_lie(packed=packed)())
    with pytest.raises(BadFile, match=f"claims {packed} bytes"):
        inspect(path, LIMITS)


def test_pages_without_values_are_no_work_without_end(tmp_path: Path) -> None:
    path = tmp_path / "pages.parquet"
    empty = Page(content=b"", values=0)
    pages = [*[empty] * 100_001, plain_longs(5)]
    column = Column(elements=[element("n", leaf=True)], pages=pages)
    path.write_bytes(parquet_of([column], rows=5))
    with pytest.raises(BadFile, match="more than 100000 pages"):
        inspect(path, LIMITS)


def test_a_million_rows_of_nulls_are_cheap(tmp_path: Path) -> None:
    path = tmp_path / "nulls.parquet"
    rows = 1_000_000
    columns = [
        Column(
            elements=[element(f"c{n}", leaf=True)], pages=[Page(content=run(0, rows, width=1), values=rows)]
        )
        for n in range(10)
    ]
    path.write_bytes(parquet_of([*columns], rows=rows))
    assert path.stat().st_size < 2000
    reason, _, megabytes, seconds = check(path)
    assert reason == "fine"
    assert megabytes < 150
    assert seconds < 10


def test_one_long_text_among_short_ones_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "outlier.parquet"
    path.write_bytes(dictionary(4 * MIB, 3_000_000, others=1))
    found = inspect(path, LIMITS)
    assert 7 * MIB < found.unpacked_bytes < 30 * MIB
    assert 1 <= batch_rows(path, found) < 8192


def test_the_batches_of_large_rows_are_small(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    pq.write_table(
        pa.table({"t": [b"x" * MIB] * 50 + [b""] * 10_000}), path, data_page_size=MIB, write_batch_size=1
    )
    assert batch_rows(path, inspect(path, LIMITS)) < 20
    pq.write_table(pa.table({"t": [f"{number}" for number in range(10_000)]}), path)
    assert batch_rows(path, inspect(path, LIMITS)) == 8192


# ---------------------------------------------------------------- the bounds against what is there


def columns_of(path: Path) -> list[ReadColumn]:
    data, found = path.read_bytes(), inspect(path, LIMITS)
    reader = ColumnReader(data)
    return [
        reader.column(leaf, chunk, group.rows, read_pages(data, chunk))
        for group in found.row_groups
        for leaf, chunk in zip(found.schema.columns, group.chunks, strict=True)
    ]


def words(chance: random.Random, rows: int) -> list[str | None]:
    known = ["".join(chance.choices("abc", k=chance.randint(0, 40))) for _ in range(chance.randint(1, 400))]
    return [None if chance.random() < 0.2 else chance.choice(known) for _ in range(rows)]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "DELTA_BYTE_ARRAY"])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
def test_counting_gives_what_pyarrow_reads(version: str, encoding: str, codec: str, tmp_path: Path) -> None:
    chance = random.Random(f"{version} {encoding} {codec}")
    path = tmp_path / "words.parquet"
    for rows in (1, 7, 1000, 5000):
        values = words(chance, rows)
        if encoding == "DELTA_BYTE_ARRAY":
            values.sort(key=str)
        flat = pa.array(values, pa.string())
        offsets = pa.array(sorted([0, rows, *chance.choices(range(rows + 1), k=rows - 1)]), pa.int32())
        table = pa.table({"t": flat, "l": pa.ListArray.from_arrays(offsets, flat)})
        options: dict[str, Any] = {"use_dictionary": True}
        if encoding == "DELTA_BYTE_ARRAY":
            options = {
                "use_dictionary": False,
                "column_encoding": dict.fromkeys(("t", "l.list.element"), encoding),
            }
        pq.write_table(
            table, path, compression=codec, data_page_version=version, data_page_size=2000, **options
        )
        reader = ColumnReader(path.read_bytes())
        true = sum(len(each or "") for each in values)
        for column in columns_of(path):
            before = column.size
            reader.count(column)
            reader.find_rows(column)
            # The last group of packed indices is filled up with values that nobody reads.
            more = sum(span.page.unpacked + 7 * span.widest for span in column.spans)
            if column.is_amplified:
                assert true <= column.size <= true + more
                assert column.size <= before
            if column.leaf.repetition:
                assert column.begun is not None
                assert sum(column.begun) == rows


def test_the_bounds_of_foreign_files(tmp_path: Path) -> None:
    """Of every writer's files: pages that make up their chunks, and bounds that are not below the values."""
    del tmp_path
    for path in sorted(CORPUS.glob("*.parquet")):
        found, data = inspect(path, LIMITS), path.read_bytes()
        for group in found.row_groups:
            for chunk in group.chunks:
                pages = read_pages(data, chunk)
                assert sum(page.values for page in pages if page.kind != 2) == chunk.values
                if pages:
                    assert pages[-1].at + pages[-1].packed == begin_of(chunk) + chunk.packed_bytes
        assert 1 <= batch_rows(path, found) <= 8192
        if "bad_utf8" not in path.name:
            verify_pages(path, found)


def test_texts_that_share_a_prefix_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "prefixes.parquet"
    texts = ["x" * 20_000] * 2000
    options: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"t": "DELTA_BYTE_ARRAY"}}
    pq.write_table(pa.table({"t": texts}), path, compression="zstd", **options)
    assert path.stat().st_size < 5000
    assert 40_000_000 <= inspect(path, LIMITS).unpacked_bytes < 41_000_000
    with pytest.raises(BadFile) as caught:
        inspect(path, replace(LIMITS, max_held_bytes=20_000_000))
    assert caught.value.evidence["limit"] == "max_held_bytes"
