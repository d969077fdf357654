"""Plans: what is exact, what is rewritten, and that no value of any drifted file disappears."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import duckdb
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from feeders.arrow import ArrowType, pa, pq
from feeders.parquet import BadFile, Limits, inspect
from feeders.scalars import json_text
from feeders.schema import LoadPlan, plan_load
from feeders.streams import Column
from feeders.types import quote_identifier

Drawn = dict[str, Any]
MEASURED = Limits()

# ---------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def columns_of(**types: str) -> tuple[Column, ...]:
    return (
        *(Column(name=name, type=kind) for name, kind in types.items()),
        Column(name="day", type="VARCHAR"),
        Column(name="_source_file", type="VARCHAR"),
        Column(name="_rescued_data", type="JSON"),
    )


def insert(database: duckdb.DuckDBPyConnection, columns: tuple[Column, ...], plans: list[LoadPlan]) -> None:
    definition = ", ".join(f"{quote_identifier(each.name)} {each.type}" for each in columns)
    database.execute(f"CREATE OR REPLACE TABLE staging ({definition})")
    names = ", ".join(quote_identifier(name) for name, _ in plans[0].projection)
    sources = ", ".join(expression for _, expression in plans[0].projection)
    database.execute(
        f"INSERT INTO staging ({names}) SELECT {sources} FROM read_parquet(?, filename = '_lotus_path',"
        " hive_partitioning = false, union_by_name = false, binary_as_string = true) AS file",
        [[str(plan.path) for plan in plans]],
    )


def load(
    database: duckdb.DuckDBPyConnection, table: Any, columns: tuple[Column, ...], folder: Path
) -> tuple[LoadPlan, list[Drawn]]:
    """Write, plan and load a table as the writer does; a file that fails is planned again with care."""
    path = folder / "file.parquet"
    pq.write_table(table, path)
    footer = inspect(path, MEASURED)
    plan = plan_load(path, footer, columns, work_dir=folder)
    try:
        insert(database, columns, [plan])
    except duckdb.Error:
        assert not plan.normalized, "a normalized file must load"
        plan = plan_load(path, footer, columns, work_dir=folder, careful=True)
        insert(database, columns, [plan])
    found = database.execute("SELECT * FROM staging ORDER BY rowid")
    return plan, cast("Any", found.to_arrow_table)().to_pylist()


def load_values(
    database: duckdb.DuckDBPyConnection, folder: Path, values: Any, kind: str
) -> tuple[LoadPlan, list[Any], list[Any]]:
    """Load one column; return the plan, its values in staging and what was rescued of each row."""
    plan, rows = load(database, pa.table({"c": values}), columns_of(c=kind), folder)
    return plan, [row["c"] for row in rows], [row["_rescued_data"] for row in rows]


# ---------------------------------------------------------------- no value disappears

SCALARS: dict[str, ArrowType] = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
    "JSON": pa.string(),
    "DECIMAL(18,2)": pa.decimal128(18, 2),
}
DRIFTED: list[ArrowType] = [
    *SCALARS.values(),
    pa.binary(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.int8(),
    pa.int32(),
    pa.uint32(),
    pa.uint64(),
    pa.float32(),
    pa.decimal128(38, 18),
    pa.timestamp("ms"),
    pa.timestamp("ns", tz="UTC"),
    pa.timestamp("us"),
    pa.null(),
]
NAMES = ["id", "ID", "customer", "Amount", "x y", 'q"q', "é"]
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6),
    st.integers(-(2**65), 2**65).map(str),
    st.floats(allow_nan=False).map(repr),
    st.decimals(-(10**6), 10**6, places=2).map(str),
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda each: each.isoformat() + "+02:00"),  # noqa: DTZ001
    st.sampled_from(
        ["true", "FALSE", "", "n/a", "450789469.5", "2026-13-45", "{}", '{"a": [1]}', "NaN", "nul"]
    ),
)


@st.composite
def staging_types(draw: st.DrawFn, depth: int = 2) -> tuple[str, ArrowType]:
    """Draw a type of staging: its text and its place in arrow."""
    shape = draw(st.sampled_from(["scalar", "scalar", "struct", "list"] if depth else ["scalar"]))
    if shape == "list":
        text, arrow = draw(staging_types(depth - 1))
        return f"{text}[]", pa.list_(arrow)
    if shape == "struct":
        fields = {
            name: draw(staging_types(depth - 1))
            for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique_by=str.lower))
        }
        text = ", ".join(f"{quote_identifier(name)} {inner}" for name, (inner, _) in fields.items())
        return f"STRUCT({text})", pa.struct([(name, arrow) for name, (_, arrow) in fields.items()])
    name = draw(st.sampled_from(sorted(SCALARS)))
    return name, SCALARS[name]


@st.composite
def drift(draw: st.DrawFn, kind: ArrowType, depth: int = 2) -> ArrowType:
    """Draw what a file may have in place of a type: the same, or anything else, at any level."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([*DRIFTED, pa.list_(pa.string()), pa.struct([("id", pa.string())])]))
    if pa.types.is_struct(kind):
        fields = [(field.name, draw(drift(field.type, depth - 1))) for field in kind]
        return pa.struct(draw(drifted_fields(fields)))
    if pa.types.is_list(kind):
        return pa.list_(draw(drift(kind.value_type, depth - 1)))
    return draw(st.sampled_from(DRIFTED)) if draw(st.integers(0, 3)) == 0 else kind


@st.composite
def drifted_fields(draw: st.DrawFn, fields: list[tuple[str, ArrowType]]) -> list[tuple[str, ArrowType]]:
    """Leave fields out, add some, change the case and the order of others."""
    kept = [field for field in fields if draw(st.integers(0, 5))] or fields[:1]
    cased = [(draw(st.sampled_from([name, name.upper(), name.lower()])), kind) for name, kind in kept]
    twins = [name.swapcase() for name, _ in cased]
    extra = draw(st.lists(st.sampled_from([*NAMES, *twins, "extra"]), max_size=1))
    extras = [(name, draw(st.sampled_from([*DRIFTED, pa.list_(pa.binary())]))) for name in extra]
    used: set[str] = set()
    unique: list[tuple[str, ArrowType]] = []
    for name, kind in draw(st.permutations([*cased, *extras])):
        if name not in used:
            unique.append((name, kind))
            used.add(name)
    return unique


def values_of(kind: ArrowType) -> st.SearchStrategy[Any]:
    """Values of an arrow type, as `pa.array` takes them."""
    types = pa.types
    if types.is_null(kind):
        return st.none()
    if types.is_struct(kind):
        inner = st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    elif types.is_list(kind):
        inner = st.lists(values_of(kind.value_type), max_size=3)
    elif types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind):
        inner = TEXTS
    elif types.is_binary(kind):
        inner = st.one_of(st.binary(max_size=4), TEXTS.map(str.encode))
    elif types.is_boolean(kind):
        inner = st.booleans()
    elif types.is_integer(kind):
        bits = kind.bit_width
        low, high = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if types.is_signed_integer(kind) else (0, 2**bits - 1)
        )
        inner = st.integers(low, high)
    elif types.is_float32(kind):
        inner = st.floats(width=32)
    elif types.is_floating(kind):
        inner = st.one_of(st.floats(), st.integers(-(10**6), 10**6).map(float))
    elif types.is_decimal(kind):
        digits = kind.precision - 1
        inner = st.integers(-(10**digits), 10**digits).map(lambda each: Decimal(each).scaleb(-kind.scale))
    elif types.is_date32(kind):
        inner = st.dates()
    else:
        step = {"ms": 1_000, "us": 1, "ns": 1}[kind.unit]
        inner = st.integers(-(10**15), 10**15).map(
            lambda micros: micros // step * (1000 if kind.unit == "ns" else 1)
        )
    return st.none() | inner


@st.composite
def drifted_files(draw: st.DrawFn) -> tuple[dict[str, str], Any]:
    """Draw a staging table and a file that was meant for it."""
    wanted = draw(
        st.dictionaries(
            st.sampled_from(["id", "customer", "Amount", "x y"]), staging_types(), min_size=1, max_size=3
        )
    )
    fields = [(name, draw(drift(arrow))) for name, (_, arrow) in wanted.items()]
    schema = pa.schema(draw(drifted_fields(fields)))
    rows = draw(st.integers(1, 4))
    arrays = [
        pa.array(draw(st.lists(values_of(field.type), min_size=rows, max_size=rows)), field.type)
        for field in schema
    ]
    return {name: text for name, (text, _) in wanted.items()}, pa.Table.from_arrays(arrays, schema=schema)


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drifted=drifted_files())
def test_every_value_is_in_its_column_or_rescued(
    database: duckdb.DuckDBPyConnection, drifted: tuple[dict[str, str], Any]
) -> None:
    wanted, table = drifted
    with TemporaryDirectory() as folder:
        plan, rows = load(database, table, columns_of(**wanted), Path(folder))
    event(f"{plan.kind}, normalized: {plan.normalized}")
    assert len(rows) == table.num_rows == plan.rows
    for index, row in enumerate(rows):
        rescued: Drawn = json.loads(row["_rescued_data"] or "{}")
        accounted = Accounts(rescued)
        staged = {name: row[name] for name in wanted}
        accounted.fields([(name, table[name][index]) for name in table.schema.names], staged, "")
        assert accounted.unseen == set()
    assert plan.rescued_rows == sum(row["_rescued_data"] is not None for row in rows)


class Accounts:
    """Goes through a row of a file, and finds each of its values in staging or among the rescued."""

    def __init__(self, rescued: Drawn) -> None:
        self.rescued = rescued
        self.unseen = set(rescued)

    def fields(self, source: list[tuple[str, Any]], staged: Drawn, path: str) -> None:
        left = dict(staged)
        for name, value in source:
            here = f"{path}.{name}" if path else name
            target = next((each for each in left if each.lower() == name.lower()), None)
            if target is not None:
                self.value(value, left.pop(target), here)
            elif value.is_valid:
                self.take(value, here)
        assert all(value is None for value in left.values())

    def take(self, source: Any, path: str) -> None:
        assert path in self.rescued, path
        self.unseen.discard(path)
        assert self.rescued[path] == json_of(source), path

    def value(self, source: Any, staged: Any, path: str) -> None:
        if not source.is_valid:
            assert staged is None
        elif path in self.rescued:
            assert staged is None
            self.take(source, path)
        elif pa.types.is_struct(source.type) and isinstance(staged, dict):
            self.fields(list(source.items()), cast("Drawn", staged), path)
        elif pa.types.is_list(source.type) and isinstance(staged, list):
            elements = cast("list[Any]", staged)
            assert len(source) == len(elements)
            for index, (each, found) in enumerate(zip(source.values, elements, strict=True)):
                self.value(each, found, f"{path}[{index}]")
        elif pa.types.is_struct(source.type) or pa.types.is_list(source.type):
            assert json.loads(staged) == json_of(source)
        else:
            assert same(source, staged), (path, source, staged)


def plain(source: Any) -> Any:
    """A scalar as Python has it; timestamps as whole nanoseconds."""
    if pa.types.is_timestamp(source.type):
        return source.value * {"ms": 10**6, "us": 10**3, "ns": 1}[source.type.unit]
    if pa.types.is_dictionary(source.type):
        return source.as_py()
    if pa.types.is_string(source.type) or pa.types.is_large_string(source.type):
        return source.as_buffer().to_pybytes().decode()
    return source.as_py()


def json_of(source: Any) -> Any:
    """What a value has to be among the rescued, said a second time."""
    if not source.is_valid:
        return None
    kind = source.type
    if pa.types.is_struct(kind):
        return {name: json_of(value) for name, value in source.items()}
    if pa.types.is_list(kind):
        return [json_of(each) for each in source.values]
    value = plain(source)
    if pa.types.is_timestamp(kind):
        return instant_text(value, kind)
    match value:
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"hex": value.hex()}
        case float():
            return value if math.isfinite(value) else str(value)
        case Decimal():
            return f"{value:f}"
        case date():
            return value.isoformat()
        case _:
            return value


def instant_text(nanos: int, kind: ArrowType) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanos // 1000)
    zone = "Z" if kind.tz else ""
    return moment.strftime(f"%Y-%m-%dT%H:%M:%S.%f{zone}").rjust(26 + len(zone), "0")


def same(source: Any, staged: Any) -> bool:
    """Say whether a value in staging is the file's: of another type, but nothing less."""
    value: Any = plain(source)
    value = cast("Any", value.decode()) if isinstance(value, bytes) else value
    if pa.types.is_timestamp(source.type):
        return same_instant(value, staged, source.type)
    match staged:
        case bool():
            return str(value).lower() == str(staged).lower()
        case int() | Decimal():
            return Fraction(value) == Fraction(staged)
        case float():
            return same_double(value, staged)
        case datetime() if isinstance(value, date):
            return staged == datetime(value.year, value.month, value.day, tzinfo=UTC)
        case datetime():
            found = datetime.fromisoformat(str(value))
            return staged == (found if found.tzinfo else found.replace(tzinfo=UTC))
        case date():
            return staged.isoformat() == str(value)
        case _:
            return same_text(value, staged)


def same_instant(nanos: int, staged: Any, kind: ArrowType) -> bool:
    match staged:
        case datetime():
            return staged - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(microseconds=nanos // 1000)
        case date():
            return staged - date(1970, 1, 1) == timedelta(microseconds=nanos // 1000)
        case _:
            return instant_text(nanos, kind) in {staged, staged.strip('"')}


def same_double(value: Any, staged: float) -> bool:
    if not math.isfinite(staged):
        return isinstance(value, float) and str(value) == str(staged)
    return float(value) == staged and (
        isinstance(value, Decimal | str) or Fraction(value) == Fraction(staged)
    )


def same_text(value: Any, staged: str) -> bool:
    match value:
        case str():
            return value == staged
        case bool():
            return staged == str(value).lower()
        case float():
            return float(staged) == value or staged == str(value)
        case date():
            return staged.strip('"') == value.isoformat()
        case _:
            return Fraction(staged) == Fraction(value)


# ---------------------------------------------------------------- what fits, and which way it takes

BIG = 2**53 + 1
ONE_COLUMN = {
    "same type": (pa.array(["é", None]), "VARCHAR", ["é", None], [None, None], "exact", False),
    "small integers": (pa.array([1, -1], pa.int16()), "BIGINT", [1, -1], [None, None], "widen", False),
    "uint64 in range": (pa.array([2**63 - 1], pa.uint64()), "BIGINT", [2**63 - 1], [None], "widen", False),
    "uint64 above": (pa.array([5, 2**63], pa.uint64()), "BIGINT", [5, None], [None, 2**63], "rescue", True),
    "whole money": (pa.array([12, None]), "DOUBLE", [12.0, None], [None, None], "widen", False),
    "too whole for a double": (pa.array([1, BIG]), "DOUBLE", [1.0, None], [None, BIG], "rescue", True),
    "no statistics": (pa.array([None], pa.uint64()), "BIGINT", [None], [None], "widen", False),
    "money in decimals": (
        pa.array([Decimal("0.35"), Decimal("-8.41")], pa.decimal128(38, 18)),
        "DOUBLE",
        [0.35, -8.41],
        [None, None],
        "widen",
        False,
    ),
    "fractions of an integer": (pa.array([2.0, 2.5]), "BIGINT", [2, None], [None, 2.5], "rescue", True),
    "not a number": (pa.array([math.nan]), "BIGINT", [None], ["nan"], "rescue", True),
    "integers as text": (
        pa.array(["7", "+07", "7.0", " 7", "9223372036854775808", "\u0667", "1_0", "0x10"]),
        "BIGINT",
        [7, 7, *[None] * 6],
        [None, None, "7.0", " 7", "9223372036854775808", "\u0667", "1_0", "0x10"],
        "rescue",
        True,
    ),
    "doubles as text": (
        pa.array(["0.1", "1e3", ".5", "1e999", "1e-999", "nan", "9007199254740993", "1,5"]),
        "DOUBLE",
        [0.1, 1000.0, 0.5, *[None] * 5],
        [None, None, None, "1e999", "1e-999", "nan", "9007199254740993", "1,5"],
        "rescue",
        True,
    ),
    "text that fits": (pa.array(["7", "8"]), "BIGINT", [7, 8], [None, None], "widen", True),
    "words of truth": (
        pa.array(["TRUE", "false", "1", "yes"]),
        "BOOLEAN",
        [True, False, None, None],
        [None, None, "1", "yes"],
        "rescue",
        True,
    ),
    "numbers for a boolean": (pa.array([1, 0]), "BOOLEAN", [None, None], [1, 0], "rescue", True),
    "numbers as text": (pa.array([1, -2]), "VARCHAR", ["1", "-2"], [None, None], "widen", False),
    "structs are no text": (pa.array([{"a": 1}]), "VARCHAR", [None], [{"a": 1}], "rescue", True),
    "structs are json": (pa.array([{"a": [1, None]}]), "JSON", ['{"a":[1,null]}'], [None], "widen", True),
    "text is no list": (pa.array(["[1]"]), "BIGINT[]", [None], ["[1]"], "rescue", True),
    "malformed json": (
        pa.array(['{"a":1}', "{", "", '"\\ud800"', None]),
        "JSON",
        ['{"a":1}', None, None, None, None],
        [None, "{", "", '"\\ud800"', None],
        "rescue",
        True,
    ),
    "bytes": (
        pa.array([b"caf\xc3\xa9", b"caf\xe9"]),
        "VARCHAR",
        ["café", None],
        [None, {"hex": "636166e9"}],
        "rescue",
        True,
    ),
    "elements of a list": (
        pa.array([["1", "x", None], [], None]),
        "BIGINT[]",
        [[1, None, None], [], None],
        [{"c[1]": "x"}, None, None],
        "rescue",
        True,
    ),
    "nanoseconds": (
        pa.array([-1_000, 1_001, None], pa.timestamp("ns", tz="UTC")),
        "TIMESTAMP WITH TIME ZONE",
        [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), None, None],
        [None, "1970-01-01T00:00:00.000001001Z", None],
        "rescue",
        True,
    ),
    "milliseconds out of range": (
        pa.array([0, 2**62], pa.timestamp("ms", tz="UTC")),
        "TIMESTAMP WITH TIME ZONE",
        [datetime(1970, 1, 1, tzinfo=UTC), None],
        [None, f"{2**62} ms since 1970-01-01"],
        "rescue",
        True,
    ),
    "timestamps as text": (
        pa.array(
            [
                "2026-05-02T10:11:12.5-04:00",
                "2026-05-02 10:11",
                "2026-05-02",
                "2026-05-02T10:11:12.1234567Z",
                "2026-02-30",
                "1777716672",
                "infinity",
            ]
        ),
        "TIMESTAMP WITH TIME ZONE",
        [
            datetime(2026, 5, 2, 14, 11, 12, 500_000, UTC),
            datetime(2026, 5, 2, 10, 11, tzinfo=UTC),
            datetime(2026, 5, 2, tzinfo=UTC),
            *[None] * 4,
        ],
        [None, None, None, "2026-05-02T10:11:12.1234567Z", "2026-02-30", "1777716672", "infinity"],
        "rescue",
        True,
    ),
    "no type of a column": (pa.array([time(1, 2, 3)]), "BIGINT", [None], ["01:02:03"], "rescue", True),
    "a type without a rule": (pa.array([1]), "HUGEINT", [None], [1], "rescue", True),
}


@pytest.mark.parametrize("case", sorted(ONE_COLUMN))
def test_what_fits_a_column(case: str, database: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    values, target, staged, rescued, kind, normalized = ONE_COLUMN[case]
    plan, found, texts = load_values(database, tmp_path, values, target)
    assert found == staged
    paths = [each if each is None or is_by_path(each) else {"c": each} for each in rescued]
    assert [json.loads(text) if text else None for text in texts] == paths
    assert (plan.kind, plan.normalized) == (kind, normalized)
    assert plan.rescued_rows == sum(each is not None for each in rescued)
    assert bool(plan.reasons) == normalized


def is_by_path(rescued: Any) -> bool:
    return isinstance(rescued, dict) and any(str(name).startswith("c") for name in cast("Drawn", rescued))


def test_decimals_become_the_double_that_was_meant(
    database: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    cents = range(1, 1_000_000, 41)
    values = pa.array([Decimal(each).scaleb(-2) for each in cents], pa.decimal128(38, 18))
    table = pa.table({"top": values, "deep": pa.StructArray.from_arrays([values], ["amount"])})
    plan, rows = load(database, table.select(["top"]), columns_of(top="DOUBLE"), tmp_path)
    assert not plan.normalized
    assert [row["top"] for row in rows] == [each / 100 for each in cents]
    plan, rows = load(database, table, columns_of(top="DOUBLE", deep="STRUCT(amount DOUBLE)"), tmp_path)
    assert plan.normalized
    assert all(row["top"] == row["deep"]["amount"] for row in rows)
    assert [row["top"] for row in rows] == [each / 100 for each in cents]


# ---------------------------------------------------------------- names, groups, and what a plan says


def test_extra_fields_are_named_with_a_type_that_a_table_can_take(
    database: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    kind = pa.list_(pa.struct([("id", pa.int64()), ("rounding", pa.decimal128(9, 2))]))
    table = pa.table(
        {
            "year": pa.array([2026]),
            "items": pa.array([[{"id": 1, "rounding": Decimal("0.05")}, {"id": 2, "rounding": None}]], kind),
            "notes": pa.array([{"a b": ["x"]}]),
        }
    )
    columns = (*columns_of(items="STRUCT(id BIGINT)[]"), Column(name="year", type="BIGINT"))
    plan, rows = load(database, table, columns, tmp_path)
    assert {str(each): each.type for each in plan.extras} == {
        "items[].rounding": "DECIMAL(9,2)",
        "notes": 'STRUCT("a b" VARCHAR[])',
        "year": "BIGINT",
    }
    assert plan.rescued_paths == ("items[].rounding", "notes", "year")
    rescued = {"year": 2026, "items[0].rounding": "0.05", "notes": {"a b": ["x"]}}
    assert json.loads(rows[0]["_rescued_data"]) == rescued
    assert rows[0]["items"] == [{"id": 1}, {"id": 2}]


def test_twins_and_equal_paths_lose_nothing(database: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    arrays = [pa.array([value]) for value in (1, 2, 3, {"x": 4}, 5)]
    table = pa.Table.from_arrays(arrays, names=["id", "ID", "id", "a", "a.x"])
    plan, rows = load(database, table, columns_of(id="BIGINT", a="STRUCT(y BIGINT)"), tmp_path)
    assert rows[0]["id"] == 1
    assert json.loads(rows[0]["_rescued_data"]) == {"ID": 2, "id": 3, "a.x": 4, "a.x#2": 5}
    assert plan.kind == "rescue"


def test_equal_shapes_share_a_signature_and_one_read(
    database: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    columns = columns_of(id="BIGINT", customer="STRUCT(name VARCHAR, age BIGINT)")
    customer = [{"name": "Ann", "age": 3}]
    tables = {
        "plain": pa.table({"id": [1], "customer": customer}),
        "another codec": pa.table({"id": [2], "customer": customer}),
        "required": pa.Table.from_arrays(
            [pa.array([3]), pa.array(customer)],
            schema=pa.schema(
                [pa.field("id", pa.int64(), nullable=False), ("customer", pa.array(customer).type)]
            ),
        ),
        "narrow": pa.table({"id": pa.array([4], pa.int32()), "customer": customer}),
        "missing": pa.table({"id": [5], "customer": [{"age": 3}]}),
        "extra": pa.table({"id": [6], "customer": customer, "x": [1]}),
        "text": pa.table({"id": ["7"], "customer": customer}),
    }
    plans: dict[str, LoadPlan] = {}
    for name, table in tables.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd" if name == "another codec" else "snappy")
        plans[name] = plan_load(path, inspect(path, MEASURED), columns, work_dir=tmp_path)
    signatures = {name: plan.signature for name, plan in plans.items()}
    assert signatures["plain"] == signatures["another codec"] == signatures["required"]
    assert signatures["extra"] == signatures["text"] != signatures["plain"]
    assert len({signatures[name] for name in ("plain", "narrow", "missing", "extra")}) == 4
    for group in (["plain", "another codec", "required"], ["extra", "text"]):
        insert(database, columns, [plans[name] for name in group])
        found = database.execute("SELECT id, customer.name, customer.age FROM staging ORDER BY id").fetchall()
        assert [(name, age) for _, name, age in found] == [("Ann", 3)] * len(group)


@pytest.mark.parametrize(("rows", "row_group_size"), [(300, 1), (1_000_000, 1_000_000)])
def test_row_groups_of_one_row_and_of_a_million(
    database: duckdb.DuckDBPyConnection, tmp_path: Path, rows: int, row_group_size: int
) -> None:
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table({"id": pa.array(range(rows))}), path, row_group_size=row_group_size)
    for careful in (False, True):
        footer, columns = inspect(path, MEASURED), columns_of(id="BIGINT")
        plan = plan_load(path, footer, columns, work_dir=tmp_path, careful=careful)
        assert (plan.kind, plan.rows, plan.normalized) == ("exact", rows, careful)
        insert(database, columns, [plan])
        found = database.execute("SELECT count(DISTINCT id), sum(id), count(_rescued_data) FROM staging")
        assert found.fetchall() == [(rows, rows * (rows - 1) // 2, 0)]


def test_a_file_without_rows_is_never_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "extra": pa.array([], pa.int64())}), path)
    plan = plan_load(path, inspect(path, MEASURED), columns_of(id="BIGINT"), work_dir=tmp_path)
    assert (plan.rows, plan.path, plan.normalized) == (0, path, False)


def test_a_file_that_can_not_be_rewritten_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    table = pa.table({"id": [str(each) for each in range(1000)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(BadFile) as caught:
        plan_load(path, inspect(path, MEASURED), columns_of(id="BIGINT"), work_dir=tmp_path)
    assert caught.value.reason == "corrupt"
    assert caught.value.evidence == {"row_group": 0, "column": "id"}
    assert list(tmp_path.iterdir()) == [path]


def test_pages_with_other_rows_than_the_footer_claims(tmp_path: Path) -> None:
    path = tmp_path / "short.parquet"
    pq.write_table(pa.table({"id": ["1", "2"]}), path)
    claimed = replace(inspect(path, MEASURED), rows=3)
    with pytest.raises(BadFile) as caught:
        plan_load(path, claimed, columns_of(id="BIGINT"), work_dir=tmp_path)
    assert caught.value.evidence == {"footer_rows": 3, "page_rows": 2}
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(joined=st.text(alphabet='|{}[]",:0123456789.eE+-truefalsnNIiy\\ud8cD \n\t\0/*', max_size=100))
@example(
    joined='NaN|-Infinity|1|"\\ud83d\\ude00"|"\\u0000"|"\\ud800"|1 |{"a":1,"a":2}|-0|1e999|\ufeff1|"\x7f"|[[[1]]]'
)
def test_what_passes_for_json_is_json_to_duckdb(database: duckdb.DuckDBPyConnection, joined: str) -> None:
    """The other way round a text is only rescued; this way the INSERT of a normalized file would fail."""
    passed = [text for text in joined.split("|") if json_text(text) is not None]
    database.execute("SELECT CAST(unnest(?::VARCHAR[]) AS JSON)", [passed]).fetchall()


def test_rescued_rows_are_found_again_in_every_batch(
    database: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    count = 20_000
    lists = [[str(each), None, "x"] if each % 1000 == 7 else [str(each)] for each in range(count)]
    table = pa.table({"c": pa.array(lists), "n": range(count)})
    plan, rows = load(database, table, columns_of(c="BIGINT[]", n="BIGINT"), tmp_path)
    for row in rows:
        odd = row["n"] % 1000 == 7
        assert row["c"] == ([row["n"], None, None] if odd else [row["n"]])
        assert row["_rescued_data"] == ('{"c[2]":"x"}' if odd else None)
    assert (plan.rescued_rows, plan.rescued_paths) == (count // 1000, ("c[]",))
