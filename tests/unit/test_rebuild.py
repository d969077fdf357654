"""How the columns of a model's table become others."""

import pytest

from feeders.rebuild import alterations

A, B, C = ("a", "BIGINT"), ("b", "VARCHAR"), ("c", "DATE")


@pytest.mark.parametrize(
    ("found", "wanted", "changes"),
    [
        ((A, B), (A, B), []),
        ((A,), (A, B, C), ['ADD COLUMN "b" VARCHAR', 'ADD COLUMN "c" DATE']),
        ((A, B, C), (A, C), ['DROP COLUMN "b"']),
        ((A, B), (A, C), ['DROP COLUMN "b"', 'ADD COLUMN "c" DATE']),
        ((A, C), (A, B, C), None),
        ((A, B), (B, A), None),
        ((A, B), (A, ("b", "BIGINT")), None),
        ((A,), (B,), None),
        ((), (A,), None),
    ],
)
def test_a_table_is_altered_where_its_columns_keep_their_order(
    found: tuple[tuple[str, str], ...], wanted: tuple[tuple[str, str], ...], changes: list[str] | None
) -> None:
    assert alterations(found, wanted) == changes
