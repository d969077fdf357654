"""DuckDB's type text: parsed, printed again, refused."""

import duckdb
import pytest

from feeders.types import (
    Field,
    List,
    Map,
    Scalar,
    Struct,
    TypeSyntaxError,
    fold,
    format_type,
    parse_type,
    quote_identifier,
    quote_path,
)

DESCRIBED_BY_DUCKDB = [
    "BIGINT",
    "JSON",
    "DECIMAL(18,2)",
    "TIMESTAMP WITH TIME ZONE",
    "TIMESTAMP WITH TIME ZONE[]",
    "TIME WITH TIME ZONE",
    "INTEGER[3][]",
    "ENUM('a', 'it''s, (')",
    "UNION(num INTEGER, str VARCHAR)",
    "MAP(VARCHAR, STRUCT(a INTEGER[])[])[]",
    'STRUCT("name" VARCHAR, "a b" INTEGER, "q""x" TIME WITH TIME ZONE, "A" BLOB, "1x" UUID)',
    'STRUCT(self VARCHAR, "data" STRUCT(id VARCHAR, "type" VARCHAR)[], "ü" DECIMAL(4,1)[][])',
]


@pytest.mark.parametrize("text", DESCRIBED_BY_DUCKDB)
def test_text_that_duckdb_prints_survives_the_round_trip(text: str) -> None:
    row = duckdb.sql(f"DESCRIBE SELECT NULL::{text} AS x").fetchone()
    assert row is not None
    assert format_type(parse_type(row[1])) == row[1]


def test_a_nested_type_is_taken_apart() -> None:
    assert parse_type('STRUCT(a DECIMAL(18,2), "b c" MAP(VARCHAR, DATE[]))[]') == List(
        element=Struct(
            fields=(
                Field(name="a", type=Scalar(name="DECIMAL(18,2)")),
                Field(
                    name="b c", type=Map(key=Scalar(name="VARCHAR"), value=List(element=Scalar(name="DATE")))
                ),
            )
        )
    )


def test_spelling_with_and_without_quotes_is_the_same_type() -> None:
    assert parse_type('STRUCT("name" VARCHAR)') == parse_type("STRUCT(name VARCHAR)")


def test_a_field_is_found_whatever_its_case() -> None:
    struct = parse_type("STRUCT(Ab VARCHAR)")
    assert isinstance(struct, Struct)
    found = struct.get("aB")
    assert found is not None
    assert found.name == "Ab"
    assert struct.get("abc") is None


def test_fold_leaves_letters_alone_that_duckdb_tells_apart() -> None:
    connection = duckdb.connect()
    connection.execute('CREATE TABLE t ("É" INTEGER, "é" INTEGER)')
    assert fold("É") != fold("é")
    assert fold("ID") == fold("id")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "STRUCT(",
        "STRUCT(a)",
        "STRUCT(a INTEGER",
        "STRUCT(a INTEGER, A VARCHAR)",
        "INTEGER[",
        "INTEGER[x]",
        "INTEGER]",
        "INTEGER VARCHAR",
        "MAP(VARCHAR)",
        "'a'",
        "DECIMAL(18,2",
        'STRUCT("a INTEGER)',
    ],
)
def test_other_text_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(TypeSyntaxError, match="not a DuckDB type"):
        parse_type(text)


def test_identifiers_are_quoted() -> None:
    assert quote_identifier('a"b') == '"a""b"'
    assert quote_path(("staging", "t", "x y")) == '"staging"."t"."x y"'
    with pytest.raises(ValueError, match="NUL"):
        quote_identifier("a\0b")
