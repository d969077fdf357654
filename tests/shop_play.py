"""Small files with much in common: few keys, few moments, what is missing, what can't be cast, emails that move."""

import random
from collections.abc import Callable

from consumer.landing.parquet import Encoder
from consumer.landing.people import Row
from feeders.streams import Stream, StreamId

EMAILS = ("ann@x.example", "ANN@X.example", "bob@x.example", " bob@x.example", "", None)
_SECOND_US = 10**6
_DAY_US = 86_400 * _SECOND_US
_FROM_US = 1_700_000_000 * _SECOND_US


def _moment(dice: random.Random) -> int | None:
    return dice.choice((None, *(_FROM_US + n * _DAY_US for n in range(4))))


def _amount(dice: random.Random) -> float | None:
    # The last is more than an amount may be: it comes out as null.
    return dice.choice((None, 0.0, 10.0, 20.55, 1e300))


def _order(dice: random.Random) -> Row:
    return {
        "id": dice.choice((None, 1, 2, 3, 4, 5)),
        "customer": dice.choice((None, {"id": None}, *({"id": n} for n in range(1, 5)))),
        "created_at": _moment(dice),
        "cancelled_at": dice.choice((None, None, _FROM_US)),
        "test": dice.choice((None, False, False, True)),
        "financial_status": dice.choice(("paid", "refunded", None)),
        "total_line_items_price": _amount(dice),
        "total_discounts": _amount(dice),
        "total_tax": _amount(dice),
    }


def _refund(dice: random.Random) -> Row:
    entries: list[Row] = [
        {
            "kind": dice.choice(("refund", "refund", "sale")),
            "status": dice.choice(("success", "success", "failure", None)),
            "test": dice.choice((None, False, True)),
            "amount": dice.choice(("1.00", "2.25", "a lot", None)),
        }
        for _ in range(dice.randrange(3))
    ]
    return {
        "id": dice.choice((None, 1, 2, 3, 4)),
        "order_id": dice.choice((None, 1, 2, 3, 4, 5)),
        "transactions": dice.choice((None, entries, entries)),
    }


def _customer(dice: random.Random) -> Row:
    return {
        "id": dice.choice((None, 1, 2, 3, 4)),
        "email": dice.choice(EMAILS),
        "total_spent": _amount(dice),
    }


def _profile(dice: random.Random) -> Row:
    return {
        "id": dice.choice((None, "p1", "p2", "p3")),
        "attributes": dice.choice((None, *({"email": email} for email in EMAILS))),
    }


def _event(dice: random.Random) -> Row:
    profile = dice.choice((None, "p1", "p2", "p3", "p9"))
    return {
        "id": dice.choice((None, *(f"e{n}" for n in range(6)))),
        "datetime": _moment(dice),
        "relationships": {"profile": {"data": {"id": profile}}},
    }


def _list(dice: random.Random) -> Row:
    return {"id": dice.choice((None, "l1", "l2")), "attributes": {"name": dice.choice(("a", "b"))}}


MAKERS: dict[StreamId, Callable[[random.Random], Row]] = {
    StreamId(source="shopify", stream="orders"): _order,
    StreamId(source="shopify", stream="order_refunds"): _refund,
    StreamId(source="shopify", stream="customers"): _customer,
    StreamId(source="klaviyo", stream="profiles"): _profile,
    StreamId(source="klaviyo", stream="events"): _event,
    StreamId(source="klaviyo", stream="lists"): _list,
}
"""The streams that sales and engagement are made of, and one that nothing else is made of."""


def small_file(stream: Stream, dice: random.Random, encoder: Encoder) -> bytes:
    """A file of up to four rows, of which some may be of the same key and moment."""
    rows: list[Row] = [
        MAKERS[stream.id](dice)
        | {
            "_airbyte_raw_id": dice.choice(("a", "b", "c", None)),
            "_airbyte_extracted_at": _moment(dice),
        }
        for _ in range(dice.randrange(5))
    ]
    return encoder.encode(rows, codec="none", time_unit="us")
