"""The headers of SQL files: what is one, what isn't, and what is refused."""

from pathlib import Path

import pytest

from feeders.headers import Header, HeaderRule, parse_headers
from feeders.project import SqlFileError

PATH = Path("ddl/shopify/x.sql")
RULES = {
    "key": HeaderRule(required=True),
    "map": HeaderRule(repeated=True),
    "on_delete": HeaderRule(choices=("keep", "remove")),
}


def test_headers_prose_and_continuations_are_told_apart() -> None:
    text = (
        "-- One row per order: the latest.\n"
        "--key:order_id\n"
        "\n"
        "-- map: staging.a: id\n"
        "-- map: staging.b:\n"
        "--     SELECT order_id\n"
        "--       FROM changed\n"
        "--\n"
        "--     not a continuation, for the header above has ended\n"
        "SELECT 1 -- key of nothing: prose\n"
        "-- unknown: not at the top, so prose\n"
    )
    headers = parse_headers(text, path=PATH, rules=RULES)
    assert headers.found == (
        Header(name="key", value="order_id", line=2),
        Header(name="map", value="staging.a: id", line=4),
        Header(name="map", value="staging.b: SELECT order_id FROM changed", line=5),
    )
    assert [header.line for header in headers.all("map")] == [4, 5]
    assert headers.value("on_delete", default="keep") == "keep"
    assert headers.first("on_delete") is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "-- key: a\n-- kee: b\nSELECT 1",
            "x.sql:2: unknown header 'kee'\n.*known headers: key, map, on_delete",
        ),
        ("-- Key: a\nSELECT 1", "x.sql:1: unknown header 'Key'"),
        ("-- key:\nSELECT 1", "x.sql:1: header 'key' has no value"),
        ("-- key: a\n-- key: b\nSELECT 1", "x.sql:2: header 'key' stands here a second time"),
        (
            "-- key: a\n-- on_delete: maybe\n",
            "x.sql:2: header 'on_delete' is 'maybe', not one of keep, remove",
        ),
        ("SELECT 1", "x.sql:1: header 'key' is missing"),
        ("-- key: a\nSELECT 1\n-- map: b: c\n", "x.sql:3: header 'map' stands below the first line of SQL"),
    ],
)
def test_a_wrong_header_is_refused_with_file_line_and_known_names(text: str, error: str) -> None:
    with pytest.raises(SqlFileError, match=error):
        parse_headers(text, path=PATH, rules=RULES)
