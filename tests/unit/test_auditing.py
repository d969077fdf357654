"""An audit's own rules: of which day a key is, what repairs a finding, what a footer claims, what is listed."""

from datetime import date
from pathlib import Path

import pytest

from consumer.audit_repair import Remedy, remedy_of
from consumer.audit_scope import scope_of
from feeders.append import must_delete
from feeders.audit_findings import Finding, Kind
from feeders.auditing import day_of
from feeders.lake import Scratch
from feeders.ledger import KeyState
from feeders.parquet_schema import claimed_rows, parse_footer
from feeders.streams import StreamId
from feeders.thrift import FooterSyntaxError
from feeders.work import Outcome
from tests.lakes import definitions

PARQUET = Path(__file__).resolve().parents[1] / "data" / "parquet"
PLACE = "raw/shopify/orders"
ORDERS = StreamId(source="shopify", stream="orders")
KEYS = (
    f"{PLACE}/year=2026/month=07/day=04/a.parquet",
    f"{PLACE}/year=2026/month=07/day=04/a\nb 湯.parquet",
    f"{PLACE}/year=2026/month=07/day=04/2026_07_05_1_1.parquet",
    f"{PLACE}/2026_07_04_1_1.parquet",
    f"{PLACE}/2024_02_29_12_0.parquet",
    f"{PLACE}/2026_02_30_1_1.parquet",
    f"{PLACE}/year=2026/month=13/day=04/a.parquet",
    f"{PLACE}/year=2026/month=7/day=4/a.parquet",
    f"{PLACE}/year=2026/month=07/day=04/a.parquet\n",
    f"{PLACE}/year=2026/month=07/day=04/.parquet",
    f"{PLACE}/2026_07_04_1_1.PARQUET",
    f"{PLACE}/x2026_07_04_1_1.parquet",
    f"{PLACE}/readme.txt",
)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_of_the_day_that_its_route_says(key: str) -> None:
    route = definitions().streams.route(key)
    scratch = Scratch()
    try:
        quoted = key.replace("'", "''")
        [(day,)] = scratch.query(f"SELECT {day_of('k')} FROM (SELECT '{quoted}' AS k)")
    finally:
        scratch.close()
    assert day == (route.partition.date() if route else None)


@pytest.mark.parametrize(
    ("kind", "etag", "loaded_etag", "staged", "expected", "remedy"),
    [
        ("missing", "e1", None, 0, 0, "load"),
        ("missing", "e1", None, None, 0, "load"),
        ("missing", "e2", "e1", 3, 3, "load"),
        ("missing", "e1", None, 3, 0, "replay"),
        ("gone", None, "e1", 3, 3, "remove"),
        ("rows", "e1", "e1", 2, 3, "replay"),
        ("rows", "e1", "e1", 4, 3, None),
        ("rows", None, "e1", 2, 3, None),  # retained: there is nothing to load again
        ("rows", None, None, 2, 0, None),
        ("footer", "e1", "e1", 3, 3, None),
    ],
)
def test_what_repairs_a_finding(
    kind: Kind,
    etag: str | None,
    loaded_etag: str | None,
    staged: int | None,
    expected: int,
    remedy: Remedy | None,
) -> None:
    finding = Finding(
        kind=kind,
        stream=ORDERS,
        key="raw/shopify/orders/2026_07_04_1_1.parquet",
        etag=etag,
        size_bytes=1,
        modified_s=1.0,
        loaded_etag=loaded_etag,
        rows_expected=expected,
        rows_in_staging=staged,
    )
    assert remedy_of(finding) == remedy


@pytest.mark.parametrize("path", sorted(PARQUET.glob("*.parquet")), ids=lambda path: path.stem)
def test_a_footer_claims_what_a_whole_look_says(path: Path) -> None:
    body = path.read_bytes()
    footer = body[-8 - int.from_bytes(body[-8:-4], "little") : -8]
    whole = parse_footer(footer, max_columns=10_000, max_depth=64, max_row_groups=10_000)
    assert claimed_rows(footer) == whole.rows
    for end in range(0, len(footer), 97):
        try:
            claimed = claimed_rows(footer[:end])
        except FooterSyntaxError:
            continue
        assert claimed == whole.rows


def test_days_are_listed_by_their_own_prefixes_where_that_is_less() -> None:
    streams = definitions().streams
    orders = streams.get(ORDERS)
    assert orders is not None
    common = {"bucket": "landing", "landing_prefix": "raw"}
    day = (date(2026, 7, 4), date(2026, 7, 4))
    scope, looked_at = scope_of(streams, **common, prefix=None, stream=orders, days=day)
    assert scope.begins == (f"{PLACE}/year=2026/month=07/day=04/", f"{PLACE}/2026_07_04_")
    assert looked_at == (orders,)
    scope, looked_at = scope_of(streams, **common, prefix=None, stream=None, days=day)
    assert len(scope.begins) == 2 * len(looked_at) == 2 * len(streams)
    assert not scope.is_whole
    scope, looked_at = scope_of(streams, **common, prefix=f"{PLACE}/2026", stream=None, days=day)
    assert (scope.begins, looked_at) == ((f"{PLACE}/2026",), (orders,))
    scope, looked_at = scope_of(streams, **common, prefix=None, stream=None, days=None)
    assert (scope.begins, scope.is_whole) == (("raw/",), True)


def test_a_replay_deletes_rows_that_the_ledger_does_not_know() -> None:
    present = KeyState(etag="e", action="loaded", rows=1)
    assert must_delete(Outcome.REPLAYED, None)
    assert must_delete(Outcome.REPLACED, present)
    assert not must_delete(Outcome.LOADED, None)
