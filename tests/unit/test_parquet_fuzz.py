"""Damaged files and noise: every reader ends with one of its own errors, soon, and without the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeders.parquet import BadFile, Limits, batch_rows, inspect
from feeders.parquet_pages import Page, read_pages
from feeders.parquet_schema import FooterLimitError, parse_footer
from feeders.parquet_types import Leaf
from feeders.parquet_values import entry_lengths, indexed_bytes, prefixed_bytes, rows_begun, widest_entry
from feeders.row_groups import Chunk
from feeders.thrift import FooterSyntaxError, ThriftReader
from tests.helpers import examples, fuzzed
from tests.mangle import CORPUS, mangle

LIMITS = Limits(max_unpacked_bytes=1024**3)
FOOTERS = [data[-8 - int.from_bytes(data[-8:-4], "little") : -8] for data in (p.read_bytes() for p in CORPUS)]
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(1800)  # with the profile `faults`

_noise = st.binary(max_size=600)
_numbers = st.integers(0, 2**20)


def look(path: Path, data: bytes) -> None:
    """Checks a file; it is sound or a BadFile with a short text."""
    path.write_bytes(data)
    try:
        assert batch_rows(path, inspect(path, LIMITS)) >= 1
    except BadFile as error:
        assert error.message  # noqa: PT017 - either outcome is right
        assert len(error.message) < 1000  # noqa: PT017


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file.parquet"


@fuzzed(200)
@given(_noise, _noise)
def test_noise_in_a_frame(place: Path, body: bytes, footer: bytes) -> None:
    look(place, b"PAR1" + body + footer + len(footer).to_bytes(4, "little") + b"PAR1")


@fuzzed(150)
@given(st.integers(0, 2**32))
def test_damaged_files(place: Path, seed: int) -> None:
    look(place, mangle(seed)[0])


@fuzzed(150)
@given(st.sampled_from(FOOTERS), st.sampled_from(FOOTERS), st.data())
def test_footers_cut_and_joined(place: Path, one: bytes, other: bytes, data: st.DataObject) -> None:
    head = one[: data.draw(st.integers(0, len(one)))]
    footer = head + other[data.draw(st.integers(0, len(other))) :]
    look(place, b"PAR1" + bytes(2000) + footer + len(footer).to_bytes(4, "little") + b"PAR1")


@fuzzed(300)
@given(_noise)
def test_thrift_and_footers_of_noise(data: bytes) -> None:
    for kind in range(16):
        try:
            ThriftReader(data).skip(kind)
        except FooterSyntaxError:
            continue
    try:
        parse_footer(data, max_columns=100, max_depth=10, max_row_groups=10)
    except (FooterSyntaxError, FooterLimitError):
        return


@fuzzed(300)
@given(_noise, _numbers)
def test_page_headers_of_noise(data: bytes, values: int) -> None:
    chunk = Chunk(0, values, len(data), len(data), 0, 0, 0, elsewhere=False)
    for content in (data, b"\x15\x00\x15" + data, b"\x15\x04\x15\x10\x15\x10\x4c\x15\x02" + data):
        try:
            pages = read_pages(content, chunk._replace(packed_bytes=len(content)))
        except FooterSyntaxError:
            continue
        assert sum(page.values for page in pages if page.kind != 2) == values


@fuzzed(300)
@given(_noise, st.integers(0, 5000), st.integers(0, 3), st.integers(0, 3))
def test_values_of_noise(data: bytes, values: int, repetition: int, definition: int) -> None:
    """None of the counts is negative, and none takes a step for each value that is only claimed."""
    leaf = Leaf(path=("x",), physical=6, repetition=repetition, definition=definition)
    page = Page(0, 0, len(data), len(data), values, 8)
    for count in (
        lambda: indexed_bytes(data, page, leaf, [3, 1000, 5]),
        lambda: prefixed_bytes(data, page, leaf),
        lambda: rows_begun(data, page, leaf),
        lambda: widest_entry(data, values),
    ):
        try:
            assert count() >= 0
        except FooterSyntaxError:
            continue


@fuzzed(100)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=50))
def test_the_entries_of_a_dictionary(entries: list[bytes]) -> None:
    content = b"".join(len(each).to_bytes(4, "little") + each for each in entries)
    assert widest_entry(content, len(entries)) == max(map(len, entries))
    assert entry_lengths(content) == [len(each) for each in entries]
    for wrong in (len(entries) - 1, len(entries) + 1):
        with pytest.raises(FooterSyntaxError):
            widest_entry(content, wrong)


def test_no_damage_ends_the_process(tmp_path: Path) -> None:
    """The check, pyarrow and DuckDB read damaged files in a process of their own: a crash there is a failure here."""
    count = examples(120)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.mangle", str(tmp_path), "1", str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seed = (tmp_path / "seed").read_text()
    assert ran.returncode == 0, f"seed {seed}: {ran.stderr[-2000:]}"
    found = json.loads(ran.stdout)
    outcomes: dict[str, int] = found["outcomes"]
    assert {"corrupt", "read"} <= outcomes.keys()
    assert sum(outcomes.values()) >= count
    assert found["peak_mib"] < 700
    assert found["slowest_s"] < 10
