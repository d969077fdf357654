"""The difference between the DDL and a lake's table: as values, and done to a real DuckLake."""

from pathlib import Path
from typing import Any

import duckdb
import pytest

from feeders.ddl import (
    AddColumn,
    CreateTable,
    DdlRefused,
    Mismatch,
    WidenType,
    diff_table,
    extra_columns,
    is_widening,
    render,
)
from feeders.lake import load_extensions
from feeders.streams import Column
from feeders.types import List, Map, Scalar, Struct, parse_type

TABLE = "staging.t"


def columns(**types: str) -> tuple[Column, ...]:
    return tuple(Column(name=name, type=text) for name, text in types.items())


def test_a_missing_table_is_created_and_an_equal_one_left_alone() -> None:
    wanted = columns(id="BIGINT", a="STRUCT(x INTEGER)[]")
    assert diff_table(wanted, None) == (CreateTable(columns=wanted),)
    assert diff_table(wanted, wanted) == ()


def test_neither_order_nor_case_nor_quotes_are_a_change() -> None:
    wanted = columns(id="BIGINT", a='STRUCT(x INTEGER, "name" VARCHAR)')
    assert diff_table(wanted, columns(A="STRUCT(NAME VARCHAR, X INTEGER)", ID="BIGINT")) == ()


def test_what_is_missing_is_added_at_every_level() -> None:
    wanted = columns(
        id="BIGINT",
        new="JSON",
        a="STRUCT(x INTEGER, y STRUCT(z DATE)[], w STRUCT(k VARCHAR))",
        b="STRUCT(x INTEGER, y STRUCT(z DATE, v BLOB))[]",
        m="MAP(VARCHAR, STRUCT(x INTEGER, y DATE))",
    )
    found = columns(
        id="BIGINT",
        a="STRUCT(x INTEGER, w STRUCT(j VARCHAR))",
        b="STRUCT(y STRUCT(z DATE))[]",
        m="MAP(VARCHAR, STRUCT(x INTEGER))",
    )
    assert diff_table(wanted, found) == (
        AddColumn(path=("new",), type="JSON"),
        AddColumn(path=("a", "w", "k"), type="VARCHAR"),
        AddColumn(path=("a", "y"), type="STRUCT(z DATE)[]"),
        AddColumn(path=("b", "element", "y", "v"), type="BLOB"),
        AddColumn(path=("b", "element", "x"), type="INTEGER"),
        AddColumn(path=("m", "value", "y"), type="DATE"),
    )
    assert extra_columns(wanted, found) == (("a", "w", "j"),)


def test_what_only_the_lake_has_is_kept_and_noted() -> None:
    wanted = columns(a="STRUCT(x BIGINT, y DATE)")
    found = columns(a="STRUCT(new VARCHAR, x INTEGER)", other="JSON")
    assert diff_table(wanted, found) == (
        AddColumn(path=("a", "y"), type="DATE"),
        WidenType(column="a", found=found[0].type, type="STRUCT(new VARCHAR, x BIGINT, y DATE)"),
    )
    assert extra_columns(wanted, found) == (("a", "new"), ("other",))


def test_all_that_can_not_be_changed_is_refused_at_once() -> None:
    wanted = columns(
        id="INTEGER",
        a="STRUCT(x VARCHAR, ok BIGINT)[]",
        b="STRUCT(x DATE)",
        c="VARCHAR[]",
        m="MAP(DATE, DATE)",
    )
    found = columns(
        id="BIGINT", a="STRUCT(x BIGINT, ok INTEGER)[]", b="VARCHAR", c="VARCHAR", m="MAP(VARCHAR, DATE)"
    )
    with pytest.raises(DdlRefused) as caught:
        diff_table(wanted, found, table=TABLE)
    assert caught.value.mismatches == (
        Mismatch(path=("id",), wanted="INTEGER", found="BIGINT"),
        Mismatch(path=("a", "element", "x"), wanted="VARCHAR", found="BIGINT"),
        Mismatch(path=("b",), wanted="STRUCT(x DATE)", found="VARCHAR"),
        Mismatch(path=("c",), wanted="VARCHAR[]", found="VARCHAR"),
        Mismatch(path=("m",), wanted="MAP(DATE, DATE)", found="MAP(VARCHAR, DATE)"),
    )
    text = str(caught.value)
    assert text.startswith(TABLE)
    assert "a.element.x\n    the DDL wants: VARCHAR\n    the lake has:  BIGINT" in text


def test_identifiers_are_quoted_in_statements() -> None:
    assert render(AddColumn(path=('a"b', "element", "c d"), type="DATE"), "s.t") == (
        'ALTER TABLE "s"."t" ADD COLUMN "a""b"."element"."c d" DATE'
    )
    assert render(CreateTable(columns=columns(order="DATE")), "s.t") == 'CREATE TABLE "s"."t" ("order" DATE)'


SCALARS = {
    "TINYINT": "-128",
    "UTINYINT": "255",
    "SMALLINT": "-32768",
    "USMALLINT": "65535",
    "INTEGER": "-2147483648",
    "UINTEGER": "4294967295",
    "BIGINT": "-9223372036854775808",
    "UBIGINT": "18446744073709551615",
    "FLOAT": "0.1",
    "DOUBLE": "0.1",
    "DECIMAL(5,2)": "-999.99",
    "DECIMAL(18,2)": "9999999999999999.99",
    "DECIMAL(20,4)": "9999999999999999.9999",
    "DECIMAL(38,2)": "0.01",
    "TIMESTAMP_S": "2024-01-05 00:00:01",
    "TIMESTAMP_MS": "2024-01-05 00:00:01.123",
    "TIMESTAMP": "2024-01-05 00:00:01.123456",
    "TIMESTAMP_NS": "2024-01-05 00:00:01.123456789",
    "TIMESTAMP WITH TIME ZONE": "2024-01-05 00:00:01+00",
    "DATE": "2024-01-05",
    "BOOLEAN": "true",
    "VARCHAR": "x",
    "JSON": "{}",
}
WIDENINGS = [(narrow, wide) for narrow in SCALARS for wide in SCALARS if is_widening(narrow, wide)]


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("INTEGER", "INTEGER"),
        ("BIGINT", "INTEGER"),
        ("INTEGER", "FLOAT"),
        ("FLOAT", "DOUBLE"),
        ("BIGINT", "DOUBLE"),
        ("BIGINT", "DECIMAL(18,2)"),
        ("DECIMAL(18,2)", "DECIMAL(18,4)"),
        ("DECIMAL(18,2)", "DOUBLE"),
        ("TINYINT", "USMALLINT"),
        ("BOOLEAN", "INTEGER"),
        ("INTEGER", "VARCHAR"),
        ("VARCHAR", "JSON"),
        ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE"),
        ("TIMESTAMP", "TIMESTAMP_NS"),
    ],
)
def test_what_may_lose_or_change_a_value_is_no_widening(narrow: str, wide: str) -> None:
    assert not is_widening(narrow, wide)


class Lake:
    """A DuckLake in a folder, with one table."""

    def __init__(self, folder: Path, table: tuple[Column, ...]) -> None:
        self.connection = duckdb.connect()
        load_extensions(self.connection)
        self.run(f"ATTACH 'ducklake:{folder}/catalog.ducklake' AS lake (DATA_PATH '{folder}/data')")
        self.run("USE lake")
        self.run("CALL lake.set_option('data_inlining_row_limit', 0)")
        self.run("CREATE SCHEMA staging")
        self.run(render(CreateTable(columns=table), TABLE))

    def run(self, sql: str) -> list[Any]:
        return self.connection.execute(sql).fetchall()

    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(name=row[0], type=row[1]) for row in self.run(f"DESCRIBE {TABLE}"))

    def become(self, wanted: tuple[Column, ...]) -> None:
        self.run("BEGIN")
        for change in diff_table(wanted, self.columns(), table=TABLE):
            self.run(render(change, TABLE))
        self.run("COMMIT")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    return tmp_path / "lake"


def test_every_widening_keeps_the_values_in_a_real_lake(folder: Path) -> None:
    names = [f"c{number}" for number, _ in enumerate(WIDENINGS)]
    assert len(names) > 30
    lake = Lake(folder, columns(**{name: narrow for name, (narrow, _) in zip(names, WIDENINGS, strict=True)}))
    values = ", ".join(f"'{SCALARS[narrow]}'" for narrow, _ in WIDENINGS)
    lake.run(f"INSERT INTO {TABLE} VALUES ({values})")
    wanted = columns(**{name: wide for name, (_, wide) in zip(names, WIDENINGS, strict=True)})
    lake.become(wanted)
    assert lake.columns() == wanted
    for name, (narrow, wide) in zip(names, WIDENINGS, strict=True):
        value = f"CAST(CAST('{SCALARS[narrow]}' AS {narrow}) AS {wide})"
        assert lake.run(f"SELECT {name}::VARCHAR FROM {TABLE} WHERE {name} = {value}") == (
            lake.run(f"SELECT {value}::VARCHAR")
        ), f"{narrow} to {wide}"


def same(one: Any, other: Any) -> bool:
    """Tell whether two types are equal but for the order of fields."""
    match one, other:
        case Struct(), Struct():
            return {each.name for each in one.fields} == {each.name for each in other.fields} and all(
                same(each.type, (other.get(each.name) or each).type) for each in one.fields
            )
        case List(), List():
            return same(one.element, other.element)
        case Map(), Map():
            return same(one.key, other.key) and same(one.value, other.value)
        case Scalar(), Scalar():
            return one == other
        case _:
            return False


NESTED = [
    ("STRUCT(x INTEGER)", "{'x': 1}", "STRUCT(x INTEGER, y STRUCT(z DATE)[])", "{'x': 1, 'y': NULL}"),
    ("STRUCT(x INTEGER)", "NULL", "STRUCT(y DATE, x BIGINT)", "NULL"),
    ("STRUCT(x INTEGER)[]", "[{'x': 1}, NULL]", "STRUCT(x INTEGER, y JSON)[]", "[{'x': 1, 'y': NULL}, NULL]"),
    ("STRUCT(x INTEGER)[]", "[{'x': 1}]", "STRUCT(y DATE, x BIGINT)[]", "[{'x': 1, 'y': NULL}]"),
    ("INTEGER[][]", "[[1], []]", "BIGINT[][]", "[[1], []]"),
    (
        "STRUCT(element STRUCT(x INTEGER))[]",
        "[{'element': {'x': 1}}]",
        "STRUCT(element STRUCT(x INTEGER, y DATE))[]",
        "[{'element': {'x': 1, 'y': NULL}}]",
    ),
    (
        "MAP(VARCHAR, STRUCT(x INTEGER))",
        "MAP {'k': {'x': 1}}",
        "MAP(VARCHAR, STRUCT(x BIGINT, y DATE))",
        "MAP {'k': {'x': 1, 'y': NULL}}",
    ),
    (
        'STRUCT("a b" STRUCT(x SMALLINT[])[], "order" INTEGER)',
        "{'a b': [{'x': [1]}], 'order': 2}",
        'STRUCT("a b" STRUCT(x BIGINT[], "select" VARCHAR)[], "order" INTEGER, "from" DATE)',
        "{'a b': [{'x': [1], 'select': NULL}], 'order': 2, 'from': NULL}",
    ),
]


@pytest.mark.parametrize(("before", "value", "after", "expected"), NESTED)
def test_nested_changes_keep_the_values_in_a_real_lake(
    folder: Path, before: str, value: str, after: str, expected: str
) -> None:
    lake = Lake(folder, columns(c=before))
    lake.run(f"INSERT INTO {TABLE} SELECT {value}")
    wanted = columns(c=after, d="TIMESTAMP WITH TIME ZONE")
    lake.become(wanted)
    assert diff_table(wanted, lake.columns()) == ()
    assert same(parse_type(lake.columns()[0].type), parse_type(after))
    # by field names, since DuckLake puts new fields last
    assert lake.run(
        f"SELECT to_json(c)::JSON = to_json(CAST({expected} AS {lake.columns()[0].type})) FROM {TABLE}"
    ) in (
        [(True,)],
        [(None,)],
    )
    assert lake.run(f"SELECT c IS NULL, d IS NULL FROM {TABLE}") == [(value == "NULL", True)]
    lake.run(f"INSERT INTO {TABLE} FROM {TABLE}")
    assert lake.run(f"SELECT count(*), count(DISTINCT c) FROM {TABLE}") == [(2, int(value != "NULL"))]


def test_a_field_that_only_the_lake_has_survives_a_widening_beside_it(folder: Path) -> None:
    lake = Lake(folder, columns(c="STRUCT(x INTEGER, added VARCHAR)"))
    lake.run(f"INSERT INTO {TABLE} SELECT {{'x': 1, 'added': 'kept'}}")
    lake.become(columns(c="STRUCT(x BIGINT)"))
    assert lake.columns() == columns(c="STRUCT(x BIGINT, added VARCHAR)")
    assert lake.run(f"SELECT c.x, c.added FROM {TABLE}") == [(1, "kept")]


def test_a_refusal_changes_nothing(folder: Path) -> None:
    lake = Lake(folder, columns(c="VARCHAR"))
    with pytest.raises(DdlRefused):
        lake.become(columns(new="DATE", c="BIGINT"))
    lake.run("ROLLBACK")
    assert lake.columns() == columns(c="VARCHAR")
