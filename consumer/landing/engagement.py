"""What `main.fct_customer_engagement` must hold after a landing: computed in Python, as the sales are.

The rules of the model, a second time and in another language: no SQL runs here and no file is read back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol, TypeVar

from consumer.landing.expected import ZERO, ExpectedObject, Rank, SalesRow, moment


@dataclass(frozen=True, kw_only=True, slots=True)
class EngagementRow:
    """One row of `main.fct_customer_engagement`."""

    profile_id: str
    email: str | None
    events: int
    first_event_at: datetime | None
    last_event_at: datetime | None
    customer_id: int | None
    orders: int | None
    total_sales: Decimal | None

    def values(self) -> tuple[object, ...]:
        """Returns the values in the order of `ENGAGEMENT_COLUMNS`."""
        return tuple(getattr(self, column) for column in ENGAGEMENT_COLUMNS)


ENGAGEMENT_COLUMNS = (
    "profile_id",
    "email",
    "events",
    "first_event_at",
    "last_event_at",
    "customer_id",
    "orders",
    "total_sales",
)
"""The columns of `main.fct_customer_engagement`, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Buyer:
    """The customers of one address: the least of their ids, and what all of them ordered."""

    customer_id: int
    orders: int
    total_sales: Decimal


class _Version(Protocol):
    @property
    def rank(self) -> Rank: ...


V = TypeVar("V", bound=_Version)


def expected_engagement(
    objects: Iterable[ExpectedObject], sales: Mapping[int, SalesRow]
) -> dict[str, EngagementRow]:
    """Returns the rows by profile id, from the last content of every key in any order, and the expected sales."""
    kept = list(objects)
    profiles = _latest((each.profile_id, each) for one in kept for each in one.profiles)
    events = _latest((each.event_id, each) for one in kept for each in one.events)
    customers = _latest((each.customer_id, each) for one in kept for each in one.customers)
    moments: dict[str, list[int | None]] = {}
    for event in events.values():
        if event.profile_id is not None:
            moments.setdefault(event.profile_id, []).append(event.happened_at)
    buyers = _buyers(((each.customer_id, each.email) for each in customers.values()), sales)
    return {
        profile.profile_id: _row(
            profile.profile_id,
            profile.email,
            moments.get(profile.profile_id, []),
            buyers.get((profile.email or "").lower()),
        )
        for profile in profiles.values()
    }


def _row(
    profile_id: str, email: str | None, happened: list[int | None], buyer: _Buyer | None
) -> EngagementRow:
    known = [each for each in happened if each is not None]
    return EngagementRow(
        profile_id=profile_id,
        email=email,
        events=len(happened),
        first_event_at=moment(min(known, default=None)),
        last_event_at=moment(max(known, default=None)),
        customer_id=None if buyer is None else buyer.customer_id,
        orders=None if buyer is None else buyer.orders,
        total_sales=None if buyer is None else buyer.total_sales,
    )


def _buyers(customers: Iterable[tuple[int, str | None]], sales: Mapping[int, SalesRow]) -> dict[str, _Buyer]:
    """By address in lower case; who has none is nobody's buyer."""
    orders: dict[int, list[Decimal]] = {}
    for sale in sales.values():
        if sale.customer_id is not None and not sale.is_test_order and sale.cancelled_at is None:
            orders.setdefault(sale.customer_id, []).append(sale.total_sales or ZERO)
    by_email: dict[str, list[int]] = {}
    for customer_id, email in customers:
        if email:
            by_email.setdefault(email.lower(), []).append(customer_id)
    return {
        email: _Buyer(
            customer_id=min(ids),
            orders=sum(len(orders.get(each, [])) for each in ids),
            total_sales=sum((amount for each in ids for amount in orders.get(each, [])), ZERO),
        )
        for email, ids in by_email.items()
    }


def _latest(versions: Iterable[tuple[int | str, V]]) -> dict[int | str, V]:
    latest: dict[int | str, V] = {}
    for key, version in versions:
        if (known := latest.get(key)) is None or known.rank < version.rank:
            latest[key] = version
    return latest
