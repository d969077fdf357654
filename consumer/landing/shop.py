"""The state of a made-up shop: customers, products, orders and refunds that change as time goes by.

A row that lands is a picture of one of them at one moment. Amounts are whole cents here.
"""

from dataclasses import dataclass, field

from consumer.landing.dice import Dice
from consumer.landing.people import Person, Row, make_email, make_person, shop_address

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
CURRENCY = "EUR"


@dataclass(kw_only=True, slots=True)
class Customer:
    """A customer of the shop; `nested` is what an order repeats of it."""

    customer_id: int
    person: Person
    email: str | None
    created_at: int
    updated_at: int
    state: str
    tags: str
    spent_cents: int = 0
    orders_count: int = 0
    nested: Row = field(default_factory=dict[str, object])


@dataclass(kw_only=True, slots=True)
class Order:
    """An order as it is now."""

    order_id: int
    number: int
    customer: Customer | None
    created_at: int
    updated_at: int
    test: bool | None
    gross: int
    discounts: int
    shipping: int
    taxes: int
    financial_status: str | None = "pending"
    fulfillment_status: str | None = None
    cancelled_at: int | None = None
    cancel_reason: str | None = None


@dataclass(kw_only=True, slots=True)
class Refund:
    """A refund as it is now; its order can change, and its transactions grow and settle."""

    refund_id: int
    order: Order
    created_at: int
    transactions: list[Row]
    lines: list[Row]


def money_set(cents: int | None) -> Row:
    """Returns an amount as Shopify nests it, in the shop's and in the customer's currency."""
    amount = None if cents is None else cents / 100
    money = {"amount": amount, "currency_code": CURRENCY}
    return {"shop_money": money, "presentment_money": money}


class Shop:
    """All that the shop knows, and the moves that change it. Time is the caller's: `now_us`."""

    def __init__(self, dice: Dice, now_us: int) -> None:
        self.dice = dice
        self.now_us = now_us
        self.customers: list[Customer] = []
        self.orders: list[Order] = []
        self.refunds: list[Refund] = []
        self._ids = 4_000_000_000_000 + dice.below(1_000_000_000)
        for _ in range(12):
            self.new_customer()
        for _ in range(20):
            self.new_order()

    def next_id(self) -> int:
        """Returns an id that no object of this shop has, above 32 bits as Shopify's are."""
        self._ids += self.dice.between(1, 4_000)
        return self._ids

    def recently(self) -> int:
        """Returns a moment of the last hour: whole seconds mostly, as Shopify writes them."""
        if self.dice.chance(0.9):
            return self.now_us // SECOND_US * SECOND_US - self.dice.below(3_600) * SECOND_US
        return self.now_us - self.dice.below(HOUR_US)

    def new_customer(self) -> Customer:
        """Signs up a customer. Some have no mail address, an empty one, or that of someone else."""
        dice = self.dice
        person = make_person(dice)
        created_at = self.recently() - dice.below(400) * DAY_US
        customer = Customer(
            customer_id=self.next_id(),
            person=person,
            email=make_email(dice, person, len(self.customers)),
            created_at=created_at,
            updated_at=created_at,
            state=dice.pick(("enabled", "disabled", "invited")),
            tags=dice.pick(("", "vip", "newsletter, wholesale", "größe:XL")),
        )
        if dice.chance(0.04):
            customer.email = dice.maybe("", present=0.4)
        elif self.customers and dice.chance(0.05):
            customer.email = dice.pick(self.customers).email
        self.customers.append(customer)
        self._nest(customer)
        return customer

    def touch_customer(self, customer: Customer) -> None:
        """Changes something about a customer: every few times the mail address."""
        dice = self.dice
        customer.updated_at = self.recently()
        if dice.chance(0.3):
            customer.email = make_email(dice, customer.person, dice.below(1_000_000))
        elif dice.chance(0.3):
            customer.person = make_person(dice)
        else:
            customer.tags = dice.pick(("", "vip", "returns-often", "日本語"))
        self._nest(customer)

    def new_order(self) -> Order:
        """Places an order."""
        dice = self.dice
        gross = dice.between(100, 60_000)
        customer = self.new_customer() if dice.chance(0.2) else dice.recent(self.customers, window=50)
        created_at = self.recently()
        order = Order(
            order_id=self.next_id(),
            number=1_001 + len(self.orders),
            customer=dice.maybe(customer, present=0.96),
            created_at=created_at,
            updated_at=created_at,
            test=dice.maybe(dice.chance(0.04), present=0.98),
            gross=gross,
            discounts=dice.below(gross // 3) if dice.chance(0.3) else 0,
            shipping=dice.pick((0, 495, 799, 1_999)),
            taxes=gross * 19 // 119,
        )
        customer.orders_count += 1
        customer.spent_cents += gross
        self.orders.append(order)
        return order

    def touch_order(self, order: Order) -> None:
        """Takes an order a step on: paid, sent, edited, cancelled, refunded, passed to another customer."""
        dice = self.dice
        order.updated_at = self.recently()
        if order.financial_status == "pending" and dice.chance(0.7):
            order.financial_status = dice.pick(
                ("paid", "paid", "paid", "authorized", "voided", "partially_paid")
            )
        elif dice.chance(0.35):
            order.fulfillment_status = "partial" if order.fulfillment_status is None else "fulfilled"
        elif dice.chance(0.3):
            order.gross = dice.between(100, 60_000)
            order.taxes = order.gross * 19 // 119
        elif dice.chance(0.3):
            order.cancelled_at = order.updated_at
            order.cancel_reason = dice.pick(("customer", "inventory", "fraud", "declined", "other", None))
        elif dice.chance(0.5):
            order.financial_status = dice.pick(("partially_refunded", "refunded", None))
        else:
            order.customer = dice.recent(self.customers, window=50)

    def _nest(self, customer: Customer) -> None:
        dice = self.dice
        person = customer.person
        consent = {
            "state": dice.pick(("subscribed", "not_subscribed", "unsubscribed")),
            "opt_in_level": dice.pick(("single_opt_in", "confirmed_opt_in", None)),
            "consent_updated_at": dice.maybe(customer.updated_at, present=0.6),
            "consent_collected_from": dice.pick(("SHOPIFY", "OTHER", None)),
        }
        customer.nested = {
            "id": customer.customer_id,
            "note": dice.maybe("Prefers e-mail, «not» the phone\nsecond line", present=0.2),
            "tags": customer.tags,
            "email": customer.email,
            "phone": dice.maybe(person.phone, present=0.5),
            "state": customer.state,
            "currency": CURRENCY,
            "last_name": person.last_name,
            "created_at": customer.created_at,
            "first_name": person.first_name,
            "tax_exempt": dice.chance(0.05),
            "updated_at": customer.updated_at,
            "tax_exemptions": dice.pick(([], ["EU_REVERSE_CHARGE_EXEMPTION_RULE"], None)),
            "verified_email": dice.chance(0.9),
            "default_address": dice.maybe(
                shop_address(dice, person, address_id=self.next_id(), customer_id=customer.customer_id)
            ),
            "accepts_marketing": dice.chance(0.5),
            "admin_graphql_api_id": f"gid://shopify/Customer/{customer.customer_id}",
            "multipass_identifier": None,
            "sms_marketing_consent": dice.maybe(consent, present=0.4),
            "marketing_opt_in_level": dice.pick(("single_opt_in", None)),
            "email_marketing_consent": dice.maybe(consent),
            "accepts_marketing_updated_at": "2024-02-29T23:59:59+12:00",
        }
