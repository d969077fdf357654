"""The expected sales of a landing, held against SQL that reads the landed files: two roads to one table."""

import random
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import cast

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.landing.compare import SALES_SELECT_LIST, compare_sales
from consumer.landing.expected import (
    ExpectedObject,
    OrderVersion,
    RefundTransaction,
    RefundVersion,
    SalesRow,
    expected_sales,
    parse_amount,
)
from consumer.landing.generate import Landing
from consumer.landing.shopify import ODD_AMOUNTS
from feeders.lake import describe_create_table
from feeders.project import find_project
from feeders.streams import LOADER_COLUMNS, StreamTable, load_streams
from feeders.types import quote_identifier

FILES = 130
ROWS = (10, 60)

# Written from the rules of the models, apart from both the models and consumer/landing/expected.py.
SALES_SQL = """
CREATE VIEW fct_sales AS
WITH latest_order AS (
    SELECT * FROM orders WHERE id IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY id ORDER BY _airbyte_extracted_at DESC, _airbyte_raw_id DESC, _source_file DESC) = 1
), latest_refund AS (
    SELECT * FROM order_refunds WHERE id IS NOT NULL AND order_id IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY id ORDER BY _airbyte_extracted_at DESC, _airbyte_raw_id DESC, _source_file DESC) = 1
), refund_sum AS (
    SELECT id, order_id, _airbyte_extracted_at, coalesce(list_sum([
        coalesce(try_cast(t.amount AS DECIMAL(18,2)), 0)
        for t in transactions if t.kind = 'refund' and t.status = 'success' and not t.test
    ]), 0) AS amount FROM latest_refund
), returned AS (
    SELECT order_id, sum(amount) AS returns, max(_airbyte_extracted_at) AS seen
    FROM refund_sum GROUP BY order_id
), amounts AS (
    SELECT *,
        try_cast(total_line_items_price AS DECIMAL(18,2)) AS gross_sales,
        try_cast(total_discounts AS DECIMAL(18,2)) AS discounts,
        try_cast(total_shipping_price_set.shop_money.amount AS DECIMAL(18,2)) AS shipping,
        try_cast(total_tax AS DECIMAL(18,2)) AS taxes
    FROM latest_order
)
SELECT id AS order_id, customer.id AS customer_id, created_at AS order_date, cancelled_at,
    test AS is_test_order, financial_status, fulfillment_status, cancel_reason, gross_sales, discounts,
    coalesce(returns, 0)::DECIMAL(18,2) AS returns,
    (gross_sales - coalesce(discounts, 0) - coalesce(returns, 0))::DECIMAL(18,2) AS net_sales,
    shipping, taxes,
    (gross_sales - coalesce(discounts, 0) - coalesce(returns, 0) + coalesce(shipping, 0) + coalesce(taxes, 0)
    )::DECIMAL(18,2) AS total_sales,
    greatest(_airbyte_extracted_at, seen) AS _airbyte_extracted_at
FROM amounts LEFT JOIN returned ON returned.order_id = amounts.id
"""


@pytest.fixture(scope="module")
def streams() -> StreamTable:
    return load_streams(find_project(None), prefix="raw", describe=describe_create_table)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        opened.execute("SET TimeZone='UTC'")
        yield opened


def load(
    connection: duckdb.DuckDBPyConnection, streams: StreamTable, bucket: dict[str, bytes], folder: Path
) -> None:
    """Makes a table of each stream from its files: every column cast to the type that the ddl gives it."""
    loader = {column.name for column in LOADER_COLUMNS}
    for stream in streams:
        columns = [column for column in stream.columns if column.name not in loader]
        schema = ", ".join(f"{quote_identifier(column.name)} {column.type}" for column in columns)
        connection.execute(f"CREATE TABLE {stream.id.stream} ({schema}, _source_file VARCHAR)")
        casts = ", ".join(f"CAST({quote_identifier(each.name)} AS {each.type})" for each in columns)
        for number, (key, body) in enumerate(bucket.items()):
            route = streams.route(key)
            assert route is not None, key
            if route.stream == stream:
                path = folder / f"{number}.parquet"
                path.write_bytes(body)
                connection.execute(
                    f"INSERT INTO {stream.id.stream} SELECT {casts}, ? FROM read_parquet(?)", (key, str(path))
                )


def rows_of(connection: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    return connection.execute(f"SELECT {SALES_SELECT_LIST} FROM fct_sales").fetchall()


@pytest.mark.parametrize("seed", [1, 2, 3, 20241105])
def test_sql_over_the_landed_files_gives_the_expected_sales(
    seed: int, streams: StreamTable, connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    landing = Landing(seed=seed, files=FILES, rows=ROWS, streams=streams)
    bucket = {file.key: file.body for file in landing}
    load(connection, streams, bucket, tmp_path)
    connection.execute(SALES_SQL)

    difference = compare_sales(landing.expected_sales(), rows_of(connection))

    assert difference.equal, difference.describe()
    assert difference.found_rows > 500
    for stream in streams:
        counted = connection.execute(f"SELECT count(*) FROM {stream.id.stream}").fetchone()
        assert counted == (landing.rows_expected(stream.id),)


def test_the_landing_meets_every_rule_of_the_sales(streams: StreamTable) -> None:
    """What never happens in a landing is not tested by it."""
    landing = Landing(seed=7, files=300, streams=streams)
    for _ in landing:
        pass
    orders = [order for each in landing.objects.values() for order in each.orders]
    refunds = [refund for each in landing.objects.values() for refund in each.refunds]
    sales = landing.expected_sales().values()
    transactions = {each for refund in refunds for each in refund.transactions}

    for versions in (
        {(each.order_id, each.rank) for each in orders},
        {(each.refund_id, each.rank) for each in refunds},
    ):
        same_time: dict[tuple[int, int], set[str]] = {}
        same_row: dict[tuple[int, int, str], set[str]] = {}
        for record_id, (extracted_at, raw_id, key) in versions:
            same_time.setdefault((record_id, extracted_at), set()).add(raw_id)
            same_row.setdefault((record_id, extracted_at, raw_id), set()).add(key)
        assert sum(len(raw_ids) > 1 for raw_ids in same_time.values()) > 10, "no tie for the raw id to decide"
        assert sum(len(keys) > 1 for keys in same_row.values()) > 10, "no tie for the source file to decide"
    contents = {(order.order_id, order.rank[:2]): set[int | None]() for order in orders}
    for order in orders:
        contents[order.order_id, order.rank[:2]].add(order.gross)
    assert any(len(each) > 1 for each in contents.values()), "the source file decides between equal rows only"

    orders_of: dict[int, set[int]] = {}
    for refund in refunds:
        orders_of.setdefault(refund.refund_id, set()).add(refund.order_id)
    assert any(len(each) > 1 for each in orders_of.values()), "no refund moved"
    assert {each.status for each in transactions} >= {"success", "pending", "failure", None}
    assert {each.kind for each in transactions} >= {"refund", "void", "sale", None}
    assert any(each.test and each.kind == "refund" and each.status == "success" for each in transactions)
    assert {each.amount for each in transactions} >= set(ODD_AMOUNTS)
    assert all(each.test is not None for each in transactions if each.status == "success")
    assert {each.is_test_order for each in orders} == {True, False, None}
    assert any(each.cancelled_at is not None for each in sales)
    assert any(each.customer_id is None for each in sales)
    for column in ("gross_sales", "discounts", "shipping", "taxes"):
        assert any(getattr(each, column) is None for each in sales), f"{column} is never null"
    assert any(each.gross_sales is None and each.total_sales is None for each in sales)
    assert any(each.net_sales is not None and each.net_sales < 0 for each in sales)
    arrived: dict[int, int] = {}
    late = 0
    for order in orders:
        late += order.rank[0] < arrived.get(order.order_id, 0)
        arrived[order.order_id] = max(order.rank[0], arrived.get(order.order_id, 0))
    assert late > 100, "older versions hardly ever land after newer ones"
    assert len(orders) < landing.rows_expected("shopify.orders"), "no order without an id"


def test_the_order_in_which_files_land_does_not_matter(streams: StreamTable) -> None:
    landing = Landing(seed=5, files=80, streams=streams)
    for _ in landing:
        pass
    shuffled = list(landing.objects.values())
    random.Random(5).shuffle(shuffled)
    assert expected_sales(shuffled) == landing.expected_sales()


def order(extracted_at: int, raw_id: str, key: str, *, gross: int | None = 1000) -> OrderVersion:
    return OrderVersion(
        rank=(extracted_at, raw_id, key),
        order_id=1,
        customer_id=None,
        order_date=0,
        cancelled_at=None,
        is_test_order=False,
        financial_status=None,
        fulfillment_status=None,
        cancel_reason=None,
        gross=gross,
        discounts=None,
        shipping=500,
        taxes=None,
    )


def refund(refund_id: int, extracted_at: int, amount: str | None, *, order_id: int = 1) -> RefundVersion:
    paid = RefundTransaction(kind="refund", status="success", test=False, amount=amount)
    not_counted = [
        replace(paid, status="pending"),
        replace(paid, status="failure"),
        replace(paid, kind="void"),
        replace(paid, test=True),
    ]
    return RefundVersion(
        rank=(extracted_at, "raw", "key"),
        refund_id=refund_id,
        order_id=order_id,
        transactions=(paid, *not_counted),
    )


def sale(*, orders: list[OrderVersion], refunds: list[RefundVersion] | None = None) -> SalesRow:
    each = ExpectedObject(stream="any", rows=0, orders=tuple(orders), refunds=tuple(refunds or ()))
    return expected_sales([each])[1]


def test_the_latest_version_wins_by_time_then_raw_id_then_file() -> None:
    old, new = order(10, "z", "z", gross=100), order(20, "a", "a", gross=200)
    assert sale(orders=[new, old]).gross_sales == Decimal("2.00")
    by_raw_id = order(20, "b", "a", gross=300)
    assert sale(orders=[by_raw_id, new]).gross_sales == Decimal("3.00")
    by_file = order(20, "b", "b", gross=400)
    assert sale(orders=[by_file, by_raw_id]).gross_sales == Decimal("4.00")


def test_returns_are_the_successful_refunds_of_the_latest_versions() -> None:
    row = sale(
        orders=[order(10, "a", "a")],
        refunds=[refund(1, 5, "9.00"), refund(1, 30, "1.25"), refund(2, 7, "0.75"), refund(3, 8, "n/a")],
    )
    assert (row.returns, row.net_sales, row.total_sales) == (
        Decimal("2.00"),
        Decimal("8.00"),
        Decimal("13.00"),
    )
    assert row.airbyte_extracted_at.microsecond == 30


def test_a_refund_that_moved_counts_for_its_new_order_only() -> None:
    row = sale(
        orders=[order(10, "a", "a")], refunds=[refund(1, 20, "9.00"), refund(1, 30, "9.00", order_id=2)]
    )
    assert row.returns == 0
    assert row.airbyte_extracted_at.microsecond == 10


def test_without_gross_sales_there_are_no_net_and_total_sales() -> None:
    row = sale(orders=[order(10, "a", "a", gross=None)], refunds=[refund(1, 5, "1.00")])
    assert (row.gross_sales, row.net_sales, row.total_sales, row.returns) == (
        None,
        None,
        None,
        Decimal("1.00"),
    )


# Texts without any digit are left out: DuckDB reads "-" as 0.00.
AMOUNT_TEXTS = st.one_of(
    st.from_regex(r"\A[ ]?[+-]?[0-9]{1,6}(\.[0-9]{0,4})?[ ]?\Z"),
    st.from_regex(r"\A[+-]?\.[0-9]{1,4}\Z"),
    st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{1,3})?[eE][+-]?[0-3]\Z"),
    st.sampled_from(["NaN", "inf", "USD 3", "3 USD", "0x10", "--1", "1.2.3", "9999999999999999.99", "1e16"]),
)


@pytest.mark.parametrize("text", ODD_AMOUNTS)
def test_odd_amounts_are_read_as_duckdb_reads_them(text: str | None) -> None:
    assert parse_amount(text) == duckdb_amount(text)


@given(AMOUNT_TEXTS)
def test_any_amount_is_read_as_duckdb_reads_it(text: str) -> None:
    assert parse_amount(text) == duckdb_amount(text)


def duckdb_amount(text: str | None) -> Decimal | None:
    row = duckdb.execute("SELECT try_cast(?::VARCHAR AS DECIMAL(18,2))", (text,)).fetchone()
    assert row is not None
    return cast("Decimal | None", row[0])


def test_a_comparison_names_what_differs() -> None:
    expected = {
        1: sale(orders=[order(10, "a", "a")]),
        2: replace(sale(orders=[order(10, "a", "a")]), order_id=2),
        3: replace(sale(orders=[order(10, "a", "a")]), order_id=3),
    }
    good, other, unknown = (list(expected[1].values()) for _ in range(3))
    other[0], other[8] = 2, 10.0  # equal in value, but not a DECIMAL
    other[2] = 1
    unknown[0] = 99

    assert compare_sales({1: expected[1]}, [good]).equal
    difference = compare_sales(expected, [good, good, other, unknown])

    assert not difference.equal
    assert (difference.missing, difference.unexpected, difference.repeated) == ((3,), ("99",), (1,))
    assert difference.by_column == {"gross_sales": (2,), "order_date": (2,)}
    assert "10" not in difference.describe().replace("gross_sales", ""), "a value of a row in a message"
