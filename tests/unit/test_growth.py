"""Which columns a table gets for a file, and what is said of a file that drifted. No lake."""

from pathlib import Path

import pytest

from feeders.arrow import pa, pq
from feeders.ddl import AddColumn
from feeders.drift import (
    MAX_COLUMNS,
    MAX_SCHEMA_CHARACTERS,
    Drift,
    SchemaRejected,
    file_schema_text,
    listed,
    require_known_columns,
    table_schema_text,
)
from feeders.growth import MAX_AT_ONCE, Growth, plan_growth
from feeders.matching import MAX_DIFFERENCES
from feeders.parquet import Limits, inspect
from feeders.parquet_types import FileField, FileList, FileOther, FileScalar, FileSchema, FileStruct, FileType
from feeders.schema import plan_load
from feeders.streams import LOADER_COLUMNS, Column

TEXT, WHOLE = FileScalar(kind="string", index=0), FileScalar(kind="int64", index=0)


def file_schema(**types: FileType) -> FileSchema:
    return named(dict(types.items()))


def named(types: dict[str, FileType]) -> FileSchema:
    root = struct(types)
    return FileSchema(fingerprint=repr(root), root=root, columns=(), elements=len(types) + 1)


def struct(types: dict[str, FileType]) -> FileStruct:
    return FileStruct(fields=tuple(FileField(name=name, type=kind) for name, kind in types.items()))


def columns(**types: str) -> tuple[Column, ...]:
    return (*(Column(name=name, type=text) for name, text in types.items()), *LOADER_COLUMNS)


def grow(schema: FileSchema, table: tuple[Column, ...], *, max_columns: int = 100) -> Growth:
    return plan_growth(schema, table, max_columns=max_columns)


def added(growth: Growth) -> dict[str, str]:
    return {".".join(each.path): each.type for each in growth.added}


def refused(growth: Growth) -> dict[str, str]:
    return {each.path: each.why for each in growth.not_added}


def test_columns_and_fields_at_every_level_are_added_in_the_table_s_spelling() -> None:
    lines = FileList(
        element=struct({"SKU": TEXT, "tax": struct({"rate": WHOLE, "title": TEXT})}), form="three_level"
    )
    schema = file_schema(ID=WHOLE, Customer=struct({"name": TEXT, "age": WHOLE}), lines=lines, note=TEXT)
    table = columns(
        id="BIGINT", customer="STRUCT(name VARCHAR)", lines="STRUCT(sku VARCHAR, Tax STRUCT(rate BIGINT))[]"
    )
    growth = grow(schema, table)
    assert growth.added == (
        AddColumn(path=("customer", "age"), type="BIGINT"),
        AddColumn(path=("lines", "element", "Tax", "title"), type="VARCHAR"),
        AddColumn(path=("note",), type="VARCHAR"),
    )
    assert growth.not_added == ()
    assert [(each.kind, each.path, each.found) for each in growth.drifts] == [
        ("add", "Customer.age", "BIGINT"),
        ("add", "lines[].tax.title", "VARCHAR"),
        ("add", "note", "VARCHAR"),
    ]
    # What there is already, in whatever case, is no growth; nor is another type.
    assert grow(file_schema(ID=TEXT), table) == Growth()


def test_a_field_that_is_called_like_a_list_s_elements_is_none() -> None:
    table = columns(a='STRUCT("[]" STRUCT(x BIGINT))', b="STRUCT(element STRUCT(x BIGINT))[]")
    inner = struct({"x": WHOLE, "y": WHOLE})
    schema = file_schema(
        a=struct({"[]": inner}), b=FileList(element=struct({"element": inner}), form="three_level")
    )
    assert added(grow(schema, table)) == {"a.[].y": "BIGINT", "b.element.element.y": "BIGINT"}


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "\u2003", "x\ny", "x\u202ey", "tab\t", "x" * 129, "\x1b[2J"),
        *("year", "Month", "_source_file", "_RESCUED_DATA"),
        *("_airbyte_new", "_AIRBYTE_x", "_lotus_path", "_ducklake_internal_row_id", "rowid", "ROWID"),
        *("snapshot_id", "change_type", "filename"),
    ],
)
def test_names_that_no_table_gets(name: str) -> None:
    growth = grow(named({"id": WHOLE, name: TEXT}), columns(id="BIGINT"))
    assert growth.added == ()
    assert len(growth.not_added) == 1
    assert growth.not_added[0].why


@pytest.mark.parametrize("name", ['q"q', "s'q", "a.b", "select", "é", "%s", "x" * 128, "$1; DROP TABLE x"])
def test_odd_names_that_a_table_gets(name: str) -> None:
    assert grow(named({"id": WHOLE, name: TEXT}), columns(id="BIGINT")).added == (
        AddColumn(path=(name,), type="VARCHAR"),
    )


def test_a_reserved_name_is_free_below_a_column() -> None:
    schema = file_schema(a=struct({"x": WHOLE, "year": WHOLE, "_airbyte_x": WHOLE}))
    assert added(grow(schema, columns(a="STRUCT(x BIGINT)"))) == {
        "a.year": "BIGINT",
        "a._airbyte_x": "BIGINT",
    }


def test_of_twins_the_first_is_added() -> None:
    new = struct({"k": TEXT, "K": WHOLE})
    growth = grow(named({"id": WHOLE, "ID": TEXT, "a": WHOLE, "A": TEXT, "s": new}), columns(id="BIGINT"))
    assert added(growth) == {"a": "BIGINT", "s": 'STRUCT("k" VARCHAR)'}
    assert refused(growth).keys() == {"ID", "A"}


def test_types_that_hold_the_values() -> None:
    schema = file_schema(
        time=FileScalar(kind="time", index=0),
        nothing=FileScalar(kind="int32_unknown", index=0),
        times=FileList(element=FileScalar(kind="time", index=0), form="three_level"),
        part=struct({"at": FileScalar(kind="time", index=0), "ok": FileScalar(kind="float", index=0)}),
        only=struct({"at": FileScalar(kind="time", index=0)}),
        map=FileOther(kind="map"),
        price=FileScalar(kind="decimal", index=0, arguments=(18, 2)),
        large=FileScalar(kind="decimal", index=0, arguments=(50, 2)),
        at=FileScalar(kind="timestamp_ns_local", index=0),
        uuid=FileScalar(kind="uuid", index=0),
    )
    growth = grow(schema, columns(id="BIGINT"))
    assert added(growth) == {
        "part": 'STRUCT("ok" DOUBLE)',
        "only": "JSON",
        "map": "JSON",
        "price": "DECIMAL(18,2)",
        "large": "VARCHAR",
        "at": "TIMESTAMP WITH TIME ZONE",
        "uuid": "VARCHAR",
    }
    assert refused(growth).keys() == {"time", "nothing", "times"}


def test_a_table_grows_no_further_than_the_limit_nested_columns_included() -> None:
    wide = struct({f"f{number}": TEXT for number in range(5)})
    schema = file_schema(wide=wide, a=TEXT, b=TEXT, c=TEXT)
    growth = grow(schema, columns(id="BIGINT", s="STRUCT(x BIGINT, y BIGINT)"), max_columns=5)
    assert added(growth) == {"a": "VARCHAR", "b": "VARCHAR"}
    assert refused(growth).keys() == {"wide", "c"}
    assert "LOTUS_FILE_MAX_COLUMNS" in refused(growth)["wide"]
    # However much room there is, one transaction has an end.
    many = named({f"c{number}": TEXT for number in range(MAX_AT_ONCE + 1)})
    assert len(grow(many, columns(id="BIGINT"), max_columns=10_000).added) == MAX_AT_ONCE


def test_what_the_lake_refused_is_not_tried_again() -> None:
    schema, table = file_schema(a=TEXT, b=TEXT), columns(id="BIGINT")
    growth = plan_growth(schema, table, max_columns=100, refused={("a",)})
    assert added(growth) == {"b": "VARCHAR"}
    assert refused(growth).keys() == {"a"}


def test_only_new_columns_are_rejected() -> None:
    table = columns(id="BIGINT", amount="DOUBLE", customer="STRUCT(name VARCHAR)", gone="DATE")
    narrow = FileScalar(kind="int32", index=0)
    require_known_columns(file_schema(ID=narrow, amount=TEXT, customer=struct({"NAME": TEXT})), table)
    with pytest.raises(SchemaRejected) as caught:
        require_known_columns(
            file_schema(id=WHOLE, x=WHOLE, customer=struct({"name": TEXT, "age": TEXT})), table
        )
    assert caught.value.reason == "schema_rejected"
    assert caught.value.evidence == {"columns": "x BIGINT, customer.age VARCHAR", "found": 2}
    assert [(each.kind, each.path) for each in caught.value.drifts] == [
        ("reject", "x"),
        ("reject", "customer.age"),
    ]


def test_evidence_is_short_whatever_the_file_is_called() -> None:
    hostile = named({f"{number} {'x' * 10_000}": TEXT for number in range(2000)})
    with pytest.raises(SchemaRejected) as caught:
        require_known_columns(hostile, columns(id="BIGINT"))
    shown = str(caught.value.evidence["columns"])
    assert len(shown) <= MAX_SCHEMA_CHARACTERS
    assert caught.value.evidence["found"] == 2000
    assert len(str(caught.value)) < 500
    assert len(caught.value.drifts) == MAX_DIFFERENCES
    assert all(len(str(each)) < 500 for each in caught.value.drifts)
    assert len(file_schema_text(hostile)) <= MAX_SCHEMA_CHARACTERS
    assert all(len(each.path) <= 200 for each in grow(hostile, columns(id="BIGINT")).not_added)


def test_schemas_name_what_fits_and_count_the_rest() -> None:
    assert table_schema_text(columns(id="BIGINT")[:2]) == "id BIGINT, year BIGINT"
    assert file_schema_text(file_schema(id=WHOLE, s=struct({"x": TEXT}))) == "id int64, s struct('x' string)"
    text = listed([f"c{number}" for number in range(MAX_COLUMNS + 7)])
    assert text.startswith("c0, c1, ")
    assert text.endswith(f"c{MAX_COLUMNS - 1}, … 7 more")
    assert listed([]) == ""


# What a plan says of a file


def drifts(
    folder: Path, table: object, *wanted: str, careful: bool = False
) -> tuple[bool, tuple[Drift, ...]]:
    path = folder / "file.parquet"
    pq.write_table(table, path)
    types = dict(each.split(" ", 1) for each in wanted)
    plan = plan_load(path, inspect(path, Limits()), columns(**types), work_dir=folder, careful=careful)
    return plan.normalized, plan.drifts


def test_an_exact_file_in_any_order_and_case_takes_the_plain_path_and_did_not_drift(tmp_path: Path) -> None:
    deep = pa.array([[{"b": "x", "A": 1}]], pa.list_(pa.struct([("b", pa.string()), ("A", pa.int64())])))
    table = pa.table({"Deep": deep, "ID": [1]})
    assert drifts(tmp_path, table, "id BIGINT", "deep STRUCT(a BIGINT, b VARCHAR)[]", "gone DATE") == (
        False,
        (),
    )


def test_a_lossless_file_takes_the_plain_path_and_is_a_widening(tmp_path: Path) -> None:
    deep = pa.array([[{"a": 1}]], pa.list_(pa.struct([("a", pa.int32()), ("b", pa.string())])))
    table = pa.table({"id": pa.array([1], pa.int16()), "deep": deep, "amount": pa.array([1.5], pa.float32())})
    normalized, found = drifts(
        tmp_path, table, "id BIGINT", "deep STRUCT(a BIGINT, b VARCHAR)[]", "amount DOUBLE"
    )
    assert not normalized
    assert found == (
        Drift(kind="widen", path="id", expected="BIGINT", found="int16"),
        Drift(kind="widen", path="deep[].a", expected="BIGINT", found="int32"),
        Drift(kind="widen", path="amount", expected="DOUBLE", found="float"),
    )
    assert str(found[0]) == "id: int16 for BIGINT"


def test_only_what_was_rescued_is_a_rescue(tmp_path: Path) -> None:
    table = pa.table({"id": ["1", "no number"], "amount": ["1.5", "2.5"], "new": [1, 2]})
    normalized, found = drifts(tmp_path, table, "id BIGINT", "amount DOUBLE")
    assert normalized
    assert found == (
        Drift(kind="rescue", path="id", expected="BIGINT", found="string"),
        Drift(kind="widen", path="amount", expected="DOUBLE", found="string"),
        Drift(kind="rescue", path="new", expected=None, found="int64"),
    )
    assert [str(each) for each in found][2] == "new: int64, not in the table"


def test_values_that_their_own_type_does_not_hold_are_drift_too(tmp_path: Path) -> None:
    table = pa.table({"name": [b"\xff"]})
    normalized, found = drifts(tmp_path, table, "name VARCHAR", careful=True)
    assert normalized
    assert [(each.kind, each.path) for each in found] == [("rescue", "name")]
    assert "\\xff" not in str(found)
    json = pa.table({"j": ["{", "{}"]})
    assert [str(each) for each in drifts(tmp_path, json, "j JSON", careful=True)[1]] == [
        "j: values that its own type does not hold"
    ]
