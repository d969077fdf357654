"""What `main.fct_sales` must hold after a landing: computed in Python from the records that were made.

The rules are those of the models, written down a second time and in another language on purpose: no SQL
runs here and no file is read back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

ZERO = Decimal("0.00")
_CENT = Decimal("0.01")
_DECIMAL_18_2_LIMIT = Decimal(10) ** 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Rank = tuple[int, str, str]
"""`_airbyte_extracted_at` in microseconds, `_airbyte_raw_id`, `_source_file`: the greatest is the latest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderVersion:
    """One landed row of shopify.orders, as staging will hold it. Amounts are cents, times microseconds."""

    rank: Rank
    order_id: int
    customer_id: int | None
    order_date: int | None
    cancelled_at: int | None
    is_test_order: bool | None
    financial_status: str | None
    fulfillment_status: str | None
    cancel_reason: str | None
    gross: int | None
    discounts: int | None
    shipping: int | None
    taxes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RefundTransaction:
    """A transaction of a refund: what decides whether its amount, which is a text, counts."""

    kind: str | None
    status: str | None
    test: bool | None
    amount: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RefundVersion:
    """One landed row of shopify.order_refunds that has both its keys."""

    rank: Rank
    refund_id: int
    order_id: int
    transactions: tuple[RefundTransaction, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomerVersion:
    """One landed row of shopify.customers: what engagement needs of it."""

    rank: Rank
    customer_id: int
    email: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileVersion:
    """One landed row of klaviyo.profiles: what engagement needs of it."""

    rank: Rank
    profile_id: str
    email: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EventVersion:
    """One landed row of klaviyo.events; `happened_at` in microseconds."""

    rank: Rank
    event_id: str
    profile_id: str | None
    happened_at: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedObject:
    """What the last content of a key brings. Versions are of rows with a key; `rows` counts all."""

    stream: str
    rows: int
    orders: tuple[OrderVersion, ...] = ()
    refunds: tuple[RefundVersion, ...] = ()
    customers: tuple[CustomerVersion, ...] = ()
    profiles: tuple[ProfileVersion, ...] = ()
    events: tuple[EventVersion, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SalesRow:
    """One row of `main.fct_sales`; `airbyte_extracted_at` is its column `_airbyte_extracted_at`."""

    order_id: int
    customer_id: int | None
    order_date: datetime | None
    cancelled_at: datetime | None
    is_test_order: bool | None
    financial_status: str | None
    fulfillment_status: str | None
    cancel_reason: str | None
    gross_sales: Decimal | None
    discounts: Decimal | None
    returns: Decimal
    net_sales: Decimal | None
    shipping: Decimal | None
    taxes: Decimal | None
    total_sales: Decimal | None
    airbyte_extracted_at: datetime

    def values(self) -> tuple[object, ...]:
        """Returns the values in the order of `SALES_COLUMNS`."""
        return tuple(getattr(self, column.lstrip("_")) for column in SALES_COLUMNS)


SALES_COLUMNS = (
    "order_id",
    "customer_id",
    "order_date",
    "cancelled_at",
    "is_test_order",
    "financial_status",
    "fulfillment_status",
    "cancel_reason",
    "gross_sales",
    "discounts",
    "returns",
    "net_sales",
    "shipping",
    "taxes",
    "total_sales",
    "_airbyte_extracted_at",
)
"""The columns of `main.fct_sales`, in order: `SELECT` them so for `compare_sales`."""


def parse_amount(text: str | None) -> Decimal | None:
    """Returns what DuckDB's `TRY_CAST(text AS DECIMAL(18,2))` gives: half a cent rounds away from zero."""
    if text is None:
        return None
    try:
        amount = Decimal(text.strip())
    except InvalidOperation:
        return None
    if not amount.is_finite() or abs(amount) >= _DECIMAL_18_2_LIMIT:
        return None
    return amount.quantize(_CENT, rounding=ROUND_HALF_UP)


def expected_sales(objects: Iterable[ExpectedObject]) -> dict[int, SalesRow]:
    """Returns the rows of `main.fct_sales` by order id, from the last content of every key in any order."""
    orders: dict[int, OrderVersion] = {}
    refunds: dict[int, RefundVersion] = {}
    for each in objects:
        for order in each.orders:
            if (known := orders.get(order.order_id)) is None or known.rank < order.rank:
                orders[order.order_id] = order
        for refund in each.refunds:
            if (seen := refunds.get(refund.refund_id)) is None or seen.rank < refund.rank:
                refunds[refund.refund_id] = refund
    # Only now by order: a refund that moved counts for its new order alone.
    by_order: dict[int, list[RefundVersion]] = {}
    for refund in refunds.values():
        by_order.setdefault(refund.order_id, []).append(refund)
    return {order_id: _sales_row(order, by_order.get(order_id, ())) for order_id, order in orders.items()}


def _returned(refund: RefundVersion) -> Decimal:
    return sum(
        (
            parse_amount(each.amount) or ZERO
            for each in refund.transactions
            if each.kind == "refund" and each.status == "success" and not each.test
        ),
        ZERO,
    )


def _sales_row(order: OrderVersion, refunds: Sequence[RefundVersion]) -> SalesRow:
    gross, discounts = _amount(order.gross), _amount(order.discounts)
    shipping, taxes = _amount(order.shipping), _amount(order.taxes)
    returns = sum((_returned(refund) for refund in refunds), ZERO)
    net = None if gross is None else gross - (discounts or ZERO) - returns
    return SalesRow(
        order_id=order.order_id,
        customer_id=order.customer_id,
        order_date=moment(order.order_date),
        cancelled_at=moment(order.cancelled_at),
        is_test_order=order.is_test_order,
        financial_status=order.financial_status,
        fulfillment_status=order.fulfillment_status,
        cancel_reason=order.cancel_reason,
        gross_sales=gross,
        discounts=discounts,
        returns=returns,
        net_sales=net,
        shipping=shipping,
        taxes=taxes,
        total_sales=None if net is None else net + (shipping or ZERO) + (taxes or ZERO),
        airbyte_extracted_at=_EPOCH
        + timedelta(microseconds=max(order.rank[0], *(refund.rank[0] for refund in refunds), 0)),
    )


def _amount(cents: int | None) -> Decimal | None:
    return None if cents is None else Decimal(cents).scaleb(-2)


def moment(microseconds: int | None) -> datetime | None:
    """A moment of a record as a table has it."""
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
