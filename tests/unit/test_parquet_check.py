"""The check of a spooled file's frame and footer: what is refused, why, and that hostile bytes stay harmless."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import feeders.parquet
from feeders.arrow import pa, pq
from feeders.parquet import BadFile, BadFileReason, Limits, inspect, verify_pages
from feeders.parquet_schema import parse_footer
from feeders.parquet_types import FileList, FileOther, FileStruct
from feeders.thrift import FooterSyntaxError
from tests.helpers import fuzzed
from tests.hostile import element, footer, struct_list, varint

LIMITS = Limits()
CORPUS = Path(__file__).parents[1] / "data" / "parquet"


def write(path: Path, rows: int = 1000, **options: object) -> bytes:
    table = pa.table({"id": list(range(rows)), "name": [f"name {each}" for each in range(rows)]})
    pq.write_table(table, path, **options)
    return path.read_bytes()


def refuse(path: Path, data: bytes, limits: Limits = LIMITS) -> BadFile:
    path.write_bytes(data)
    with pytest.raises(BadFile) as caught:
        inspect(path, limits)
    return caught.value


def footer_of(data: bytes) -> bytes:
    return data[-8 - int.from_bytes(data[-8:-4], "little") : -8]


def with_footer(data: bytes, footer: bytes) -> bytes:
    body = data[: -8 - len(footer_of(data))]
    return body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


# ---------------------------------------------------------------- what is refused


def test_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "sound.parquet"
    data = write(path, compression="zstd", row_group_size=300)
    found = inspect(path, LIMITS)
    assert (found.rows, len(found.row_groups), found.size_bytes) == (1000, 4, len(data))
    assert found.codecs == {"ZSTD"}
    assert found.schema.leaves == 2
    assert found.unpacked_bytes > 1000
    verify_pages(path, found)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"id,name\n1,Ann\n", "not_parquet"),
        (b"PAR", "not_parquet"),
        (b"PAR1", "truncated"),
        (b"PAR1PAR1", "truncated"),
        (b"PAR1" + bytes(100), "truncated"),
        (b"PARE" + bytes(100) + b"PARE", "encrypted"),
        (b"PAR1" + bytes(100) + b"PARE", "encrypted"),
        (b"PAR1" + bytes(4) + b"PAR1", "corrupt"),
        (b"PAR1" + bytes(100) + b"\xff\xff\xff\xffPAR1", "corrupt"),
        (b"PAR1" + bytes(100) + b"\x64\0\0\0PAR1", "corrupt"),
        (b"PAR1" + b"\xff" * 100 + b"\x64\0\0\0PAR1", "corrupt"),
    ],
)
def test_what_is_no_file_of_ours(data: bytes, reason: BadFileReason, tmp_path: Path) -> None:
    error = refuse(tmp_path / "bad.parquet", data)
    assert error.reason == reason
    assert error.evidence["size_bytes" if "size_bytes" in error.evidence else "footer_bytes"] in range(200)


def test_every_truncation_is_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    data = write(path, rows=5)
    for length in range(len(data)):
        assert refuse(path, data[:length]).reason in {"empty_file", "not_parquet", "truncated"}


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (replace(LIMITS, max_bytes=1000), "bytes"),
        (replace(LIMITS, max_rows=999), "rows"),
        (replace(LIMITS, max_columns=1), "columns"),
        (replace(LIMITS, max_unpacked_bytes=1000), "unpacked bytes"),
        (replace(LIMITS, max_row_group_bytes=1000), "unpacked bytes in a row group"),
        (replace(LIMITS, max_held_bytes=1000), "bytes in a page"),
        (replace(LIMITS, max_row_groups=3), "row groups"),
        (replace(LIMITS, max_footer_bytes=100), "bytes of footer"),
    ],
)
def test_limits(limits: Limits, what: str, tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    data = write(path, row_group_size=250)
    inspect(path, LIMITS)
    error = refuse(path, data, limits)
    assert (error.reason, error.evidence["what"]) == ("over_limit", what)
    assert int(error.evidence["found"]) > int(error.evidence["allowed"])
    assert error.evidence["allowed"] == getattr(limits, str(error.evidence["limit"]))


def test_depth_counts_structs_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "deep.parquet"
    pq.write_table(pa.table({"c": [[{"a": [{"b": 1}]}]]}), path)
    inspect(path, replace(LIMITS, max_depth=5))
    with pytest.raises(BadFile, match="5 levels of nesting, at most 4"):
        inspect(path, replace(LIMITS, max_depth=4))


# ---------------------------------------------------------------- hostile footers

ROOT = element("schema", children=1)
LEAF = element("id", leaf=True)
HOSTILE: dict[str, tuple[bytes, BadFileReason]] = {
    "2^40 rows": (footer([ROOT, LEAF], rows=2**40), "over_limit"),
    "negative rows": (footer([ROOT, LEAF], rows=-5), "corrupt"),
    "rows without row groups": (footer([ROOT, LEAF], rows=5), "corrupt"),
    "10,000 columns": (
        footer(
            [element("schema", children=10_000), *[element(f"c{each}", leaf=True) for each in range(10_000)]]
        ),
        "over_limit",
    ),
    "100,000 levels": (footer([element("g", children=1)] * 100_000 + [LEAF]), "over_limit"),
    "200 levels": (footer([element("g", children=1)] * 200 + [LEAF]), "over_limit"),
    "a schema of 2^31 elements": (footer([ROOT, LEAF], claimed=2**31), "over_limit"),
    "a group of 2^31 children": (footer([element("schema", children=2**31 - 1), LEAF]), "corrupt"),
    "negative children": (footer([element("schema", children=-1), LEAF]), "corrupt"),
    "elements beside the tree": (footer([ROOT, LEAF, LEAF]), "corrupt"),
    "a root that is a leaf": (footer([LEAF]), "corrupt"),
    "2^31 row groups": (footer([ROOT, LEAF], groups=b"\xfc" + varint(2**31)), "over_limit"),
    "row groups that are not there": (footer([ROOT, LEAF], groups=b"\xfc" + varint(19_999)), "corrupt"),
    "a name of 2^40 bytes": (b"\x15\x04\x19\x2c\x48" + varint(2**40), "corrupt"),
    "a name that is not UTF-8": (footer([ROOT, LEAF.replace(b"id", b"\xff\xfe")]), "corrupt"),
    "a name with NUL": (footer([ROOT, LEAF.replace(b"id", b"i\0")]), "corrupt"),
    "structs in structs": (b"\x15\x04" + b"\x9c" + b"\x1c" * 100_000, "corrupt"),
    "2^60 doubles": (b"\x15\x04\x89\xf7" + varint(2**60), "corrupt"),
    "an endless integer": (b"\x15" + b"\xff" * 1000, "corrupt"),
    "a row group without chunks": (footer([ROOT, LEAF], groups=b"\x1c\x36\x00\x00"), "corrupt"),
    "no schema": (b"\x15\x04\x26\x00\x19\x0c\x00", "corrupt"),
    "nothing": (b"\x00", "corrupt"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_a_hostile_footer_is_a_bad_file(case: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[case]
    began = time.perf_counter()
    error = refuse(
        tmp_path / "hostile.parquet", b"PAR1" + content + len(content).to_bytes(4, "little") + b"PAR1"
    )
    assert error.reason == reason
    assert len(str(error)) < 300
    assert time.perf_counter() - began < 5


MILLIONS = 2**23
HEAD = b"\x15\x04\x19" + struct_list([ROOT, LEAF]) + b"\x16\x00"
BOMBS: dict[str, bytes] = {
    "2^23 empty chunks": HEAD + b"\x19\x1c\x19\xfc" + varint(MILLIONS) + bytes(MILLIONS) + b"\0\0",
    "2^21 chunks that are not there": HEAD + b"\x19\x1c\x19\xfc" + varint(MILLIONS // 4) + b"\xff" * MILLIONS,
    "2^23 empty pairs of metadata": footer([ROOT, LEAF])[:-1]
    + b"\x19\xfc"
    + varint(MILLIONS)
    + bytes(MILLIONS),
    "19,999 row groups of one empty chunk": HEAD + b"\x19\xfc" + varint(19_999) + b"\x19\x1c\0\0" * 10**6,
    "a small footer of empty chunks": HEAD + b"\x19\x1c\x19\xfc" + varint(250_000) + bytes(250_000) + b"\0\0",
}


@pytest.mark.parametrize("case", sorted(BOMBS))
def test_a_footer_does_not_become_memory(case: str, tmp_path: Path) -> None:
    """In a process of its own: the high-water mark of this one says nothing."""
    path = tmp_path / "bomb.parquet"
    path.write_bytes(b"PAR1" + BOMBS[case] + len(BOMBS[case]).to_bytes(4, "little") + b"PAR1")
    code = """
import resource, sys
from pathlib import Path
from typing import Any
from feeders.parquet import BadFile, Limits, inspect
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
before = usage()
try:
    inspect(Path(sys.argv[1]), Limits())
except BadFile as error:
    print(error.reason, (usage().ru_maxrss - before.ru_maxrss) // 1024, usage().ru_utime - before.ru_utime)
"""
    command = [sys.executable, "-c", code, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    reason, megabytes, seconds = ran.stdout.split()
    assert reason == "corrupt"
    assert int(megabytes) < 100
    assert float(seconds) < 5


def test_a_large_footer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.parquet"
    data = write(path, rows=4000, row_group_size=2)
    assert len(footer_of(data)) > 256 * 1024
    found = inspect(path, LIMITS)
    assert (found.rows, len(found.row_groups)) == (4000, 2000)


def test_a_chunk_outside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "outside.parquet"
    data = write(path, rows=50_000)
    error = refuse(path, b"PAR1" + data[len(data) // 2 :])
    assert error.reason == "corrupt"
    assert error.evidence["column_number"] in {0, 1}
    assert error.evidence["row_group"] == 0


@fuzzed(200)
@given(data=st.data())
def test_damage_is_a_bad_file_or_none(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A footer with changed bytes is refused, or read; nothing else happens."""
    path = tmp_path_factory.mktemp("damage") / "file.parquet"
    name = data.draw(st.sampled_from(["mr_old_list_customer_orders", "polars_refunds", "parquetjs_events"]))
    whole = bytearray((CORPUS / f"{name}.parquet").read_bytes())
    start = len(whole) - 8 - len(footer_of(bytes(whole)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(start, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        inspect(path, LIMITS)
    except BadFile as error:
        assert error.message  # noqa: PT017 - either outcome is right
    finally:
        path.unlink()


# ---------------------------------------------------------------- pages


def test_a_broken_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    options = {"row_group_size": 250, "use_dictionary": False, "write_page_checksum": True}
    data = bytearray(write(path, **options))
    place = inspect(path, LIMITS).row_groups[2].chunks[1]
    data[place.data_at + place.packed_bytes - 40] ^= 0xFF
    path.write_bytes(data)
    found = inspect(path, LIMITS)
    with pytest.raises(BadFile) as caught:
        verify_pages(path, found)
    assert caught.value.reason == "corrupt"
    assert caught.value.evidence == {"row_group": 2, "column": "name"}
    assert "name 7" not in str(caught.value)


def test_each_page_is_read_twice_at_most_to_find_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken.parquet"
    data = bytearray(write(path, row_group_size=10, use_dictionary=False, write_page_checksum=True))
    groups = inspect(path, LIMITS).row_groups
    assert len(groups) == 100
    place = groups[90].chunks[1]
    data[place.data_at + place.packed_bytes - 10] ^= 0xFF
    path.write_bytes(data)
    reads: list[tuple[int, str | None]] = []
    read_error = feeders.parquet._read_error  # pyright: ignore[reportPrivateUsage]

    def counted(file: Any, footer: Any, row_group: int, column: str | None) -> Exception | None:
        reads.append((row_group, column))
        return read_error(file, footer, row_group, column)

    monkeypatch.setattr(feeders.parquet, "_read_error", counted)
    with pytest.raises(BadFile) as caught:
        verify_pages(path, inspect(path, LIMITS))
    assert caught.value.evidence == {"row_group": 90, "column": "name"}
    assert len(reads) == len(set(reads)) == 91 + 2


def test_zeroed_pages(tmp_path: Path) -> None:
    path = tmp_path / "zeroed.parquet"
    data = write(path)
    body = len(data) - 8 - len(footer_of(data))
    path.write_bytes(b"PAR1" + bytes(body - 4) + data[body:])
    with pytest.raises(BadFile) as caught:
        verify_pages(path, inspect(path, LIMITS))
    assert caught.value.evidence["row_group"] == 0


def test_damaged_pages_never_end_the_process(tmp_path: Path) -> None:
    """In a process of its own, so that a crash inside a reader is a failed test and not a vanished run."""
    code = """
import random, sys
from pathlib import Path
from typing import Any
from feeders.parquet import BadFile, Limits, inspect, verify_pages
corpus, work = Path(sys.argv[1]), Path(sys.argv[2])
chance = random.Random(7)
outcomes = {"read": 0, "refused": 0}
for source in sorted(corpus.glob("mr_v2*.parquet")) + sorted(corpus.glob("spark_*.parquet")):
    for _ in range(15):
        data = bytearray(source.read_bytes())
        footer = int.from_bytes(data[-8:-4], "little")
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(4, len(data) - footer - 8)] = chance.randrange(256)
        work.write_bytes(data)
        try:
            verify_pages(work, inspect(work, Limits()))
            outcomes["read"] += 1
        except BadFile:
            outcomes["refused"] += 1
print(outcomes)
"""
    command = [sys.executable, "-c", code, str(CORPUS), str(tmp_path / "damaged.parquet")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "'refused': 0" not in ran.stdout


# ---------------------------------------------------------------- the schema


def head(name: str) -> FileStruct:
    content = footer_of((CORPUS / f"{name}.parquet").read_bytes())
    return parse_footer(content, max_columns=1000, max_depth=20, max_row_groups=100).schema.root


def kind_of(root: FileStruct, name: str) -> object:
    return next(each.type for each in root.fields if each.name == name)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mr_list3_refunds", "three_level"),
        ("mr_bag_list_refunds", "three_level"),
        ("spark_legacy_refunds", "three_level"),
        ("mr_old_list_refunds", "two_level"),
        ("mr_tuple_list_refunds", "two_level"),
        ("mr_old_list_one_field_refunds", "one_field"),
        ("mr_bare_repeated_refunds", "bare"),
    ],
)
def test_forms_of_lists(name: str, form: str) -> None:
    found = kind_of(head(name), "transactions")
    assert isinstance(found, FileList)
    assert found.form == form
    assert isinstance(found.element, FileStruct)
    assert found.element.fields[0].name == ("amount" if form == "one_field" else "id")


def test_what_pyarrow_and_this_parser_call_the_same() -> None:
    """Leaves and their order, in every file of the corpus, against the other reader's."""
    for path in sorted(CORPUS.glob("*.parquet")):
        metadata = pq.read_metadata(path)
        found = inspect(path, LIMITS).schema
        assert found.leaves == metadata.num_columns
        assert [each.name for each in found.root.fields] == pq.read_schema(path).names


def test_groups_that_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "map.parquet"
    kind = pa.map_(pa.string(), pa.int64())
    pq.write_table(pa.table({"m": pa.array([[("a", 1)]], kind), "s": pa.array([{"t": 1}])}), path)
    root = inspect(path, LIMITS).schema.root
    assert kind_of(root, "m") == FileOther(kind="map")
    assert str(kind_of(root, "s")) == "struct('t' int64)"


def test_schemas_are_found_again_by_their_bytes() -> None:
    content = footer_of((CORPUS / "mr_v2_dict_orders.parquet").read_bytes())
    first = parse_footer(content, max_columns=1000, max_depth=20, max_row_groups=100)
    again = parse_footer(content, max_columns=1000, max_depth=20, max_row_groups=100)
    assert again.schema is first.schema
    with pytest.raises(FooterSyntaxError):
        parse_footer(content[:40], max_columns=1000, max_depth=20, max_row_groups=100)
