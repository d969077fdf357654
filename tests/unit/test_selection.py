"""Which prefixes a stream's days are listed by: never so many that the listing of the whole stream is less work."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from consumer.selection import LISTED_BY_MOST, prefixes_of
from feeders.streams import Stream, StreamId, StreamTable

ORDERS = Stream(
    id=StreamId(source="shopify", stream="orders"),
    table="stg_shopify__orders",
    landing=("raw/shopify/orders", "raw/v2/orders"),
    columns=(),
    on_new_column="rescue",
    on_delete="keep",
)
PLACE = "raw/shopify/orders"


def test_days_months_years_and_all() -> None:
    def of_one_place(first: date, last: date) -> list[str]:
        found = prefixes_of(ORDERS, first, last)
        assert found[len(found) // 2 :] == [
            each.replace("raw/shopify", "raw/v2") for each in found[: len(found) // 2]
        ]
        return [each.removeprefix(f"{PLACE}/") for each in found[: len(found) // 2]]

    assert of_one_place(date(2026, 2, 28), date(2026, 3, 1)) == [
        "year=2026/month=02/day=28/",
        "2026_02_28_",
        "year=2026/month=03/day=01/",
        "2026_03_01_",
    ]
    assert of_one_place(date(2026, 1, 31), date(2026, 4, 30)) == [
        form for month in ("01", "02", "03", "04") for form in (f"year=2026/month={month}/", f"2026_{month}_")
    ]
    assert of_one_place(date(2020, 1, 1), date(2026, 1, 1)) == [
        form for year in range(2020, 2027) for form in (f"year={year}/", f"{year}_")
    ]
    assert of_one_place(date.min, date.max) == [""]


@given(st.dates(), st.integers(0, 40_000), st.integers(0, 40_000))
def test_every_key_of_the_days_begins_so(first: date, span: int, at: int) -> None:
    last = first + timedelta(days=min(span, (date.max - first).days))
    day = first + timedelta(days=min(at, (last - first).days))
    prefixes = prefixes_of(ORDERS, first, last)
    assert len(prefixes) <= 4 * (LISTED_BY_MOST + 2)
    year, month, number = day.isoformat().split("-")
    streams = StreamTable([ORDERS])
    for name in (f"year={year}/month={month}/day={number}/a.parquet", f"{year}_{month}_{number}_1_0.parquet"):
        route = streams.route(f"{PLACE}/{name}")
        assert route is not None
        assert route.partition.date() == day
        assert f"{PLACE}/{name}".startswith(tuple(prefixes))
