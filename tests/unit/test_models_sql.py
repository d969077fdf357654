"""The models' SQL on small inputs, with results worked out by hand."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import duckdb
import pytest

from feeders.models import load_models
from feeders.project import find_project

PROJECT = find_project(None)
ORDERS = "stg_shopify__orders"
REFUNDS = "stg_shopify__order_refunds"
LAST_FIVE = [
    "_source_file VARCHAR",
    "_airbyte_extracted_at TIMESTAMP WITH TIME ZONE",
    "year BIGINT",
    "month VARCHAR",
    "day VARCHAR",
]


def at(seconds: int) -> datetime:
    return datetime(2024, 1, 5, tzinfo=UTC) + timedelta(seconds=seconds)


def money(*amounts: str | None) -> tuple[Decimal | None, ...]:
    return tuple(None if amount is None else Decimal(amount) for amount in amounts)


class Tables:
    """All staging tables in memory; `build` makes every model from what has landed."""

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute("CREATE SCHEMA staging")
        for path in PROJECT.ddl.glob("*/stg_*.sql"):
            self.connection.execute(path.read_text())
        self._landed = 0

    def land(self, table: str, **values: Any) -> None:
        """Insert one row. What isn't given is null, but the row's id and file, which are told apart."""
        self._landed += 1
        row: dict[str, Any] = {
            "_airbyte_raw_id": f"raw-{self._landed:04}",
            "_source_file": f"file-{self._landed:04}",
            "year": 2024,
            "month": "01",
            "day": "05",
        }
        row |= values
        places = ", ".join("?" for _ in row)
        self.connection.execute(
            f"INSERT INTO staging.{table} ({', '.join(row)}) VALUES ({places})", list(row.values())
        )

    def order(
        self, order_id: int | None, extracted: int | None, gross: float | None = 100.0, **rest: Any
    ) -> None:
        time = None if extracted is None else at(extracted)
        self.land(ORDERS, id=order_id, _airbyte_extracted_at=time, total_line_items_price=gross, **rest)

    def refund(
        self, refund_id: int | None, order_id: int | None, extracted: int | None, *amounts: Any, **rest: Any
    ) -> None:
        """Land a refund; an amount is text of a successful refund, or a transaction as a dict, or None."""
        transactions = [
            {"kind": "refund", "status": "success", "test": False, "amount": amount}
            if isinstance(amount, str)
            else amount
            for amount in amounts
        ]
        time = None if extracted is None else at(extracted)
        self.land(
            REFUNDS,
            id=refund_id,
            order_id=order_id,
            _airbyte_extracted_at=time,
            transactions=transactions,
            **rest,
        )

    def build(self) -> None:
        for model in load_models(PROJECT):
            self.connection.execute(f"CREATE OR REPLACE TABLE {model.table} AS\n{model.sql}\n")

    def select(self, columns: str, table: str) -> list[tuple[Any, ...]]:
        result = self.connection.execute(f"SELECT {columns} FROM main.{table} ORDER BY ALL")
        # By way of Arrow: duckdb's own rows need pytz for a TIMESTAMPTZ, and nothing else here does.
        rows = cast("list[dict[str, Any]]", result.to_arrow_table().to_pylist())
        return [tuple(row.values()) for row in rows]


@pytest.fixture
def tables() -> Tables:
    return Tables()


def described(tables: Tables, table: str) -> list[str]:
    rows: Sequence[tuple[str, ...]] = tables.connection.execute(f"DESCRIBE main.{table}").fetchall()
    return [f"{row[0]} {row[1]}" for row in rows]


def test_the_columns_of_the_tables_are_fixed(tables: Tables) -> None:
    tables.build()
    timestamp, amount = "TIMESTAMP WITH TIME ZONE", "DECIMAL(18,2)"
    assert described(tables, "int_shopify__orders") == [
        "order_id BIGINT",
        "customer_id BIGINT",
        f"order_date {timestamp}",
        f"order_updated_at {timestamp}",
        f"cancelled_at {timestamp}",
        "is_test_order BOOLEAN",
        "financial_status VARCHAR",
        "fulfillment_status VARCHAR",
        "cancel_reason VARCHAR",
        f"gross_sales {amount}",
        f"discounts {amount}",
        f"shipping {amount}",
        f"taxes {amount}",
        *LAST_FIVE,
    ]
    assert described(tables, "int_shopify__order_refunds") == [
        "order_id BIGINT",
        f"returns {amount}",
        "refund_count BIGINT",
        *LAST_FIVE,
    ]
    assert described(tables, "fct_sales") == [
        "order_id BIGINT",
        "customer_id BIGINT",
        f"order_date {timestamp}",
        f"cancelled_at {timestamp}",
        "is_test_order BOOLEAN",
        "financial_status VARCHAR",
        "fulfillment_status VARCHAR",
        "cancel_reason VARCHAR",
        *(f"{name} {amount}" for name in ("gross_sales", "discounts", "returns", "net_sales", "shipping")),
        *(f"{name} {amount}" for name in ("taxes", "total_sales")),
        f"_airbyte_extracted_at {timestamp}",
    ]
    assert described(tables, "fct_customer_engagement") == [
        "profile_id VARCHAR",
        "email VARCHAR",
        "events BIGINT",
        "first_event_at TIMESTAMP WITH TIME ZONE",
        "last_event_at TIMESTAMP WITH TIME ZONE",
        "customer_id BIGINT",
        "orders BIGINT",
        "total_sales DECIMAL(18,2)",
    ]
    assert described(tables, "int_shopify__customers") == [
        "customer_id BIGINT",
        "email VARCHAR",
        "first_name VARCHAR",
        "last_name VARCHAR",
        f"customer_created_at {timestamp}",
        f"customer_updated_at {timestamp}",
        "orders_count BIGINT",
        f"total_spent {amount}",
        "tags VARCHAR",
        "customer_state VARCHAR",
        *LAST_FIVE,
    ]
    for model in ("profiles", "events", "campaigns", "flows", "lists", "metrics"):
        assert described(tables, f"int_klaviyo__{model}")[-5:] == LAST_FIVE


def test_the_latest_row_of_an_order_wins_whatever_the_order_of_arrival(tables: Tables) -> None:
    tables.order(1, 20, 120.0, financial_status="paid", _source_file="late", day="06")
    tables.order(1, 10, 110.0, financial_status="pending", _source_file="early")
    tables.build()
    assert tables.select("order_id, gross_sales, financial_status", "int_shopify__orders") == [
        (1, Decimal("120.00"), "paid")
    ]
    assert tables.select("_source_file, _airbyte_extracted_at, year, month, day", "int_shopify__orders") == [
        ("late", at(20), 2024, "01", "06")
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"_airbyte_raw_id": "b", "_source_file": "x"}, {"_airbyte_raw_id": "a", "_source_file": "y"}),
        ({"_airbyte_raw_id": "a", "_source_file": "y"}, {"_airbyte_raw_id": "a", "_source_file": "x"}),
        ({"_airbyte_raw_id": "a"}, {"_airbyte_raw_id": None}),
        ({"_airbyte_raw_id": "a", "_source_file": "x"}, {"_airbyte_raw_id": "a", "_source_file": None}),
    ],
    ids=["raw id", "source file", "null raw id", "null source file"],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_tie_in_time_goes_to_raw_id_then_file(
    tables: Tables, first: dict[str, Any], second: dict[str, Any], turned: bool
) -> None:
    landings = [(100.0, first), (200.0, second)]
    for gross, values in reversed(landings) if turned else landings:
        tables.order(1, 10, gross, **values)
    tables.build()
    assert tables.select("gross_sales", "int_shopify__orders") == [money("100.00")]


def test_a_row_without_time_is_older_than_any(tables: Tables) -> None:
    tables.order(1, None, 100.0)
    tables.order(1, -(10**9), 200.0)
    tables.order(2, None, 300.0)
    tables.build()
    assert tables.select("order_id, gross_sales", "int_shopify__orders") == [
        (1, Decimal("200.00")),
        (2, Decimal("300.00")),
    ]


def test_rows_equal_in_all_three_give_one_row_whatever_their_order(tables: Tables) -> None:
    same = {"_airbyte_raw_id": "a", "_source_file": "x"}
    results: list[list[tuple[Any, ...]]] = []
    for amounts in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [2.0, 3.0, 1.0]):
        tables.connection.execute(f"DELETE FROM staging.{ORDERS}")
        for gross in amounts:
            tables.order(1, 10, gross, **same)
        tables.build()
        results.append(tables.select("gross_sales", "int_shopify__orders"))
    assert len(results[0]) == 1
    assert results[0] == results[1] == results[2]


def test_a_row_without_key_is_in_no_model(tables: Tables) -> None:
    tables.order(None, 10)
    tables.refund(1, None, 10, "5.00")
    tables.refund(None, 7, 10, "5.00")
    tables.land("stg_klaviyo__events", attributes={"uuid": "u"})
    tables.build()
    for table in ("int_shopify__orders", "int_shopify__order_refunds", "int_klaviyo__events", "fct_sales"):
        assert tables.select("*", table) == []


def test_amounts_are_cast_as_duckdb_does(tables: Tables) -> None:
    tables.order(
        1,
        10,
        10.125,
        total_discounts=float("nan"),
        total_tax=1e300,
        total_shipping_price_set={"shop_money": {"amount": 4.999}},
        customer={"id": 7},
    )
    tables.build()
    assert tables.select("customer_id, gross_sales, discounts, shipping, taxes", "int_shopify__orders") == [
        (7, *money("10.13", None, "5.00", None))
    ]


def test_refunds_count_successful_real_refund_transactions_only(tables: Tables) -> None:
    good = {"kind": "refund", "status": "success", "test": False}
    tables.refund(
        1,
        7,
        10,
        "10.00",
        "2.505",
        "no number",
        "",
        None,
        good | {"amount": None},
        good | {"amount": "100.00", "status": "failure"},
        good | {"amount": "100.00", "status": "pending"},
        good | {"amount": "100.00", "status": None},
        good | {"amount": "100.00", "kind": "sale"},
        good | {"amount": "100.00", "kind": None},
        good | {"amount": "100.00", "test": True},
        good | {"amount": "0.25", "test": None},
    )
    tables.build()
    assert tables.select("order_id, returns, refund_count", "int_shopify__order_refunds") == [
        (7, Decimal("12.76"), 1)
    ]


def test_a_refund_without_a_counting_transaction_is_a_refund_of_nothing(tables: Tables) -> None:
    tables.refund(1, 7, 10)
    tables.land(REFUNDS, id=2, order_id=7, _airbyte_extracted_at=at(11), transactions=None)
    tables.refund(3, 8, 10, {"kind": "refund", "status": "failure", "amount": "1.00"})
    tables.build()
    assert tables.select("order_id, returns, refund_count", "int_shopify__order_refunds") == [
        (7, Decimal("0.00"), 2),
        (8, Decimal("0.00"), 1),
    ]


def test_only_the_latest_version_of_each_refund_counts(tables: Tables) -> None:
    tables.refund(1, 7, 20, "8.00", _source_file="second version")
    tables.refund(1, 7, 10, "5.00")
    tables.refund(1, 7, 20, "8.00", _source_file="a copy", _airbyte_raw_id="raw-0000")
    tables.refund(2, 7, 15, "1.50", month="02")
    tables.build()
    assert tables.select(
        "order_id, returns, refund_count, _source_file, month", "int_shopify__order_refunds"
    ) == [(7, Decimal("9.50"), 2, "second version", "01")]


def test_a_refund_that_moved_counts_for_its_new_order_only(tables: Tables) -> None:
    tables.refund(1, 7, 10, "5.00")
    tables.refund(1, 8, 20, "6.00")
    tables.refund(2, 7, 5, "1.00", _source_file="stays")
    tables.refund(3, 9, 10, "5.00")
    tables.refund(3, 8, 11, "5.00")
    tables.refund(4, 10, 10, "5.00")
    tables.refund(4, None, 11, "5.00")
    tables.build()
    assert tables.select(
        "order_id, returns, refund_count, _airbyte_extracted_at", "int_shopify__order_refunds"
    ) == [
        (7, Decimal("1.00"), 1, at(5)),
        (8, Decimal("11.00"), 2, at(20)),
    ]


def test_sales_are_gross_less_discounts_and_returns(tables: Tables) -> None:
    tables.order(
        1,
        10,
        100.0,
        total_discounts=10.0,
        total_tax=8.25,
        total_shipping_price_set={"shop_money": {"amount": 5.0}},
        customer={"id": 3},
        test=False,
        created_at=at(1),
        cancelled_at=at(2),
        cancel_reason="customer",
        financial_status="refunded",
        fulfillment_status="fulfilled",
    )
    tables.refund(1, 1, 30, "20.00")
    tables.refund(2, 1, 20, "0.10")
    tables.build()
    assert tables.select("*", "fct_sales") == [
        (
            *(1, 3, at(1), at(2), False, "refunded", "fulfilled", "customer"),
            *money("100.00", "10.00", "20.10", "69.90", "5.00", "8.25", "83.15"),
            at(30),
        )
    ]


def test_absent_amounts_count_as_nothing_but_gross_sales(tables: Tables) -> None:
    tables.order(1, 40, 100.0)
    tables.refund(1, 1, 30, "1.00")
    tables.order(2, 10, None, total_discounts=1.0, total_tax=1.0)
    tables.order(3, 10, 0.0, total_discounts=1.0)
    tables.refund(9, 99, 30, "1.00")
    tables.build()
    amounts = "gross_sales, discounts, returns, net_sales, shipping, taxes, total_sales"
    assert tables.select(f"order_id, {amounts}, _airbyte_extracted_at", "fct_sales") == [
        (1, *money("100.00", None, "1.00", "99.00", None, None, "99.00"), at(40)),
        (2, *money(None, "1.00", "0.00", None, None, "1.00", None), at(10)),
        (3, *money("0.00", "1.00", "0.00", "-1.00", None, None, "-1.00"), at(10)),
    ]


def test_one_sum_too_large_stops_no_other(tables: Tables) -> None:
    most = 9_000_000_000_000_000.0
    tables.order(1, 10, -most, total_discounts=most)
    tables.order(2, 10, most, total_tax=most)
    tables.order(3, 10, 5.0)
    tables.build()
    assert tables.select("order_id, net_sales, total_sales", "fct_sales") == [
        (1, *money(None, None)),
        (2, *money("9000000000000000.00", None)),
        (3, *money("5.00", "5.00")),
    ]


def test_klaviyo_models_take_what_lies_deep(tables: Tables) -> None:
    tables.land(
        "stg_klaviyo__profiles",
        id="p1",
        attributes={
            "email": "a@b.c",
            "created": at(1),
            "location": {"city": "Kyoto", "zip": "600"},
            "predictive_analytics": {"total_clv": 1.5, "historic_number_of_orders": 4},
        },
    )
    tables.land(
        "stg_klaviyo__events",
        id="e1",
        datetime=at(3),
        attributes={"uuid": "u", "timestamp": 17, "event_properties": "{}"},
        relationships={"metric": {"data": {"id": "m1"}}, "profile": {"data": {"id": "p1"}}},
    )
    tables.land(
        "stg_klaviyo__campaigns", id="c1", attributes={"name": "n", "archived": True, "send_time": at(4)}
    )
    tables.land("stg_klaviyo__flows", id="f1", attributes={"name": "n", "trigger_type": "list"})
    tables.land("stg_klaviyo__lists", id="l1", attributes={"name": "n", "opt_in_process": "double"})
    tables.land("stg_klaviyo__metrics", id="m1", attributes={"name": "n", "integration": '{"id": 1}'})
    tables.build()
    profile = "profile_id, created_at, email, city, postal_code, country, total_clv, historic_orders"
    assert tables.select(profile, "int_klaviyo__profiles") == [
        ("p1", at(1), "a@b.c", "Kyoto", "600", None, 1.5, 4)
    ]
    assert tables.select("* EXCLUDE (_source_file)", "int_klaviyo__events") == [
        ("e1", "p1", "m1", at(3), 17, "u", "{}", None, 2024, "01", "05")
    ]
    assert tables.select("campaign_id, campaign_name, is_archived, send_time", "int_klaviyo__campaigns") == [
        ("c1", "n", True, at(4))
    ]
    assert tables.select("flow_id, flow_name, trigger_type", "int_klaviyo__flows") == [("f1", "n", "list")]
    assert tables.select("list_id, list_name, opt_in_process", "int_klaviyo__lists") == [
        ("l1", "n", "double")
    ]
    assert tables.select("metric_id, metric_name, integration", "int_klaviyo__metrics") == [
        ("m1", "n", '{"id": 1}')
    ]


def test_customers_are_the_latest_of_each(tables: Tables) -> None:
    common = {"id": 1, "first_name": "A", "orders_count": 2, "state": "enabled"}
    tables.land(
        "stg_shopify__customers", _airbyte_extracted_at=at(2), email="new", total_spent=1.125, **common
    )
    tables.land("stg_shopify__customers", _airbyte_extracted_at=at(1), email="old", total_spent=5.0, **common)
    tables.build()
    columns = "customer_id, email, first_name, orders_count, total_spent, customer_state"
    assert tables.select(columns, "int_shopify__customers") == [
        (1, "new", "A", 2, Decimal("1.13"), "enabled")
    ]


def engagement(tables: Tables) -> list[tuple[Any, ...]]:
    tables.build()
    return tables.select("* EXCLUDE (first_event_at)", "fct_customer_engagement")


def profile(tables: Tables, profile_id: str, email: str | None) -> None:
    tables.land("stg_klaviyo__profiles", id=profile_id, attributes={"email": email})


def customer(tables: Tables, customer_id: int, email: str | None) -> None:
    tables.land("stg_shopify__customers", id=customer_id, email=email)


def test_a_profile_has_its_events_and_the_orders_of_all_customers_with_its_email(tables: Tables) -> None:
    profile(tables, "p1", "Ann@x")
    for second in (3, 1, 2):
        data = {"profile": {"data": {"id": "p1"}}}
        tables.land("stg_klaviyo__events", id=f"e{second}", datetime=at(second), relationships=data)
    customer(tables, 7, "ANN@X")
    customer(tables, 5, "ann@x")
    customer(tables, 6, " ann@x")  # not trimmed: somebody else
    for order_id, who, rest in (
        (1, 7, {}),
        (2, 5, {"total_tax": 1.5}),
        (3, 5, {"test": True}),
        (4, 5, {"cancelled_at": at(9)}),
        (5, 6, {}),
    ):
        tables.order(order_id, 1, 100.0, customer={"id": who}, **rest)
    assert engagement(tables) == [("p1", "Ann@x", 3, at(3), 5, 2, Decimal("201.50"))]
    tables.build()
    assert tables.select("first_event_at", "fct_customer_engagement") == [(at(1),)]


def test_a_profile_without_events_customers_or_orders(tables: Tables) -> None:
    profile(tables, "p1", "ann@x")
    profile(tables, "p2", "nobody@x")
    profile(tables, "p3", "")
    profile(tables, "p4", None)
    customer(tables, 1, "ann@x")
    customer(tables, 2, "")
    customer(tables, 3, None)
    tables.order(1, 1, 100.0, customer={"id": 2})
    assert engagement(tables) == [
        ("p1", "ann@x", 0, None, 1, 0, Decimal("0.00")),
        ("p2", "nobody@x", 0, None, None, None, None),
        ("p3", "", 0, None, None, None, None),
        ("p4", None, 0, None, None, None, None),
    ]


def test_what_a_changed_row_affects_is_enough_to_be_equal_to_a_rebuild(tables: Tables) -> None:
    """Changes rows of refunds at random, and makes only the affected keys anew, as the headers say."""
    model = next(each for each in load_models(PROJECT) if each.name == "int_shopify__order_refunds")
    (source,) = model.inputs
    generator = random.Random(7)
    run = tables.connection.execute
    tables.build()
    run("ALTER TABLE main.int_shopify__order_refunds RENAME TO kept")
    run(f"CREATE TABLE changed AS FROM {source.table} LIMIT 0")
    for step in range(150):
        run("DELETE FROM changed")
        if step % 3 == 2:
            files = run(f"SELECT _source_file FROM {source.table} ORDER BY ALL").fetchall()
            victim = f"WHERE _source_file = '{generator.choice(files)[0]}'"
            run(f"INSERT INTO changed FROM {source.table} {victim}")
            run(f"DELETE FROM {source.table} {victim}")
        else:
            order_id = generator.choice([1, 2, 3, 4, None])
            tables.refund(generator.randrange(6), order_id, generator.randrange(20), f"{step}.25")
            run(f"INSERT INTO changed FROM {source.table} ORDER BY _airbyte_raw_id DESC LIMIT 1")
        run(f"CREATE OR REPLACE TABLE keys AS SELECT DISTINCT * FROM ({source.keys_sql}) AS affected(key)")
        run("DELETE FROM kept WHERE order_id IN (SELECT key FROM keys)")
        restricted = f"(SELECT * FROM {source.table} WHERE {source.restrict_sql})"
        sql = model.sql.replace(source.table, f"{restricted} AS restricted")
        run(f"INSERT INTO kept SELECT * FROM ({sql}\n) WHERE order_id IN (SELECT key FROM keys)")
        run(f"CREATE OR REPLACE TABLE rebuilt AS {model.sql}\n")
        assert tables.select("*", "kept") == tables.select("*", "rebuilt"), f"step {step}"
