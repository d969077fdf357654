"""Landed rows to the versions that `expected.py` computes with, as precise as the file keeps them."""

from collections.abc import Iterable
from typing import TypedDict, cast

from consumer.landing.expected import ExpectedObject, OrderVersion, Rank, RefundTransaction, RefundVersion
from consumer.landing.parquet import TimeUnit, cut_timestamp
from consumer.landing.people import Row
from feeders.streams import StreamId

ORDERS = StreamId(source="shopify", stream="orders")
REFUNDS = StreamId(source="shopify", stream="order_refunds")


class _Money(TypedDict):
    amount: float | None


class _MoneySet(TypedDict):
    shop_money: _Money | None


class _Customer(TypedDict):
    id: int


class _Airbyte(TypedDict):
    _airbyte_raw_id: str
    _airbyte_extracted_at: int


class _Order(_Airbyte):
    id: int | None
    customer: _Customer | None
    created_at: int
    cancelled_at: int | None
    test: bool | None
    financial_status: str | None
    fulfillment_status: str | None
    cancel_reason: str | None
    total_line_items_price: float | None
    total_discounts: float | None
    total_shipping_price_set: _MoneySet | None
    total_tax: float | None


class _Transaction(TypedDict):
    kind: str | None
    status: str | None
    test: bool | None
    amount: str | None


class _Refund(_Airbyte):
    id: int | None
    order_id: int | None
    transactions: list[_Transaction] | None


def expected_object(stream: StreamId, key: str, rows: Iterable[Row], time_unit: TimeUnit) -> ExpectedObject:
    """Returns what a file of these rows, landed under this key, brings to the sales."""
    kept = list(rows)
    if stream == ORDERS:
        orders = (_order(cast("_Order", row), key, time_unit) for row in kept)
        return ExpectedObject(
            stream=str(stream), rows=len(kept), orders=tuple(each for each in orders if each)
        )
    if stream == REFUNDS:
        refunds = (_refund(cast("_Refund", row), key, time_unit) for row in kept)
        return ExpectedObject(
            stream=str(stream), rows=len(kept), refunds=tuple(each for each in refunds if each)
        )
    return ExpectedObject(stream=str(stream), rows=len(kept))


def _rank(row: _Airbyte, key: str, time_unit: TimeUnit) -> Rank:
    return cut_timestamp(row["_airbyte_extracted_at"], time_unit), row["_airbyte_raw_id"], key


def _order(row: _Order, key: str, time_unit: TimeUnit) -> OrderVersion | None:
    if row["id"] is None:
        return None
    cancelled_at = row["cancelled_at"]
    return OrderVersion(
        rank=_rank(row, key, time_unit),
        order_id=row["id"],
        customer_id=None if row["customer"] is None else row["customer"]["id"],
        order_date=cut_timestamp(row["created_at"], time_unit),
        cancelled_at=None if cancelled_at is None else cut_timestamp(cancelled_at, time_unit),
        is_test_order=row["test"],
        financial_status=row["financial_status"],
        fulfillment_status=row["fulfillment_status"],
        cancel_reason=row["cancel_reason"],
        gross=_cents(row["total_line_items_price"]),
        discounts=_cents(row["total_discounts"]),
        shipping=_shop_money(row["total_shipping_price_set"]),
        taxes=_cents(row["total_tax"]),
    )


def _refund(row: _Refund, key: str, time_unit: TimeUnit) -> RefundVersion | None:
    if row["id"] is None or row["order_id"] is None:
        return None
    return RefundVersion(
        rank=_rank(row, key, time_unit),
        refund_id=row["id"],
        order_id=row["order_id"],
        transactions=tuple(
            RefundTransaction(
                kind=each["kind"], status=each["status"], test=each["test"], amount=each["amount"]
            )
            for each in row["transactions"] or ()
        ),
    )


def _shop_money(money: _MoneySet | None) -> int | None:
    if money is None or money["shop_money"] is None:
        return None
    return _cents(money["shop_money"]["amount"])


def _cents(amount: float | None) -> int | None:
    """Returns an amount in cents: amounts are made as whole cents divided by 100, so this is exact."""
    return None if amount is None else round(amount * 100)
