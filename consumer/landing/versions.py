"""Landed rows to the versions that `expected.py` computes with, as precise as the file keeps them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TypedDict, cast

from consumer.landing.expected import (
    CustomerVersion,
    EventVersion,
    ExpectedObject,
    OrderVersion,
    ProfileVersion,
    Rank,
    RefundTransaction,
    RefundVersion,
)
from consumer.landing.parquet import TimeUnit, cut_timestamp
from consumer.landing.people import Row
from feeders.streams import StreamId

ORDERS = StreamId(source="shopify", stream="orders")
REFUNDS = StreamId(source="shopify", stream="order_refunds")
CUSTOMERS = StreamId(source="shopify", stream="customers")
PROFILES = StreamId(source="klaviyo", stream="profiles")
EVENTS = StreamId(source="klaviyo", stream="events")


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


class _ShopCustomer(_Airbyte):
    id: int | None
    email: str | None


class _Attributes(TypedDict):
    email: str | None


class _Profile(_Airbyte):
    id: str | None
    attributes: _Attributes


class _Reference(TypedDict):
    id: str


class _Related(TypedDict):
    data: _Reference


class _Relationships(TypedDict):
    profile: _Related | None


class _Event(_Airbyte):
    id: str | None
    datetime: int | None
    relationships: _Relationships


def expected_object(stream: StreamId, key: str, rows: Iterable[Row], time_unit: TimeUnit) -> ExpectedObject:
    """Returns what a file of these rows, landed under this key, brings to sales and engagement."""
    kept = list(rows)
    whole = ExpectedObject(stream=str(stream), rows=len(kept))
    if stream == ORDERS:
        orders = (_order(cast("_Order", row), key, time_unit) for row in kept)
        return replace(whole, orders=tuple(each for each in orders if each))
    if stream == REFUNDS:
        refunds = (_refund(cast("_Refund", row), key, time_unit) for row in kept)
        return replace(whole, refunds=tuple(each for each in refunds if each))
    if stream == CUSTOMERS:
        customers = (_customer(cast("_ShopCustomer", row), key, time_unit) for row in kept)
        return replace(whole, customers=tuple(each for each in customers if each))
    if stream == PROFILES:
        profiles = (_profile(cast("_Profile", row), key, time_unit) for row in kept)
        return replace(whole, profiles=tuple(each for each in profiles if each))
    if stream == EVENTS:
        events = (_event(cast("_Event", row), key, time_unit) for row in kept)
        return replace(whole, events=tuple(each for each in events if each))
    return whole


def _customer(row: _ShopCustomer, key: str, time_unit: TimeUnit) -> CustomerVersion | None:
    if row["id"] is None:
        return None
    return CustomerVersion(rank=_rank(row, key, time_unit), customer_id=row["id"], email=row["email"])


def _profile(row: _Profile, key: str, time_unit: TimeUnit) -> ProfileVersion | None:
    if row["id"] is None:
        return None
    return ProfileVersion(
        rank=_rank(row, key, time_unit), profile_id=row["id"], email=row["attributes"]["email"]
    )


def _event(row: _Event, key: str, time_unit: TimeUnit) -> EventVersion | None:
    if row["id"] is None:
        return None
    happened, profile = row["datetime"], row["relationships"]["profile"]
    return EventVersion(
        rank=_rank(row, key, time_unit),
        event_id=row["id"],
        profile_id=None if profile is None else profile["data"]["id"],
        happened_at=None if happened is None else cut_timestamp(happened, time_unit),
    )


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
