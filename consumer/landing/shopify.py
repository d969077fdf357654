"""Rows of the three Shopify streams."""

from consumer.landing.dice import Dice
from consumer.landing.people import Row
from consumer.landing.shop import CURRENCY, Customer, Order, Refund, Shop, money_set

# Amount texts that are not plain cents. What DuckDB makes of each is pinned by tests/unit/test_landing.py.
ODD_AMOUNTS = (None, "", "n/a", " 12.50 ", "1e2", "12.345", "-3.00", "7.", "+5", ".5", "$4.00", "1,200.00")
PRODUCTS = ("Tee, Größe M", "Mug 0.3 l", "Poster “Lotus”", "Gift card", "Öko-Beutel", "湯呑み")
GATEWAYS = ("shopify_payments", "paypal", "manual", "gift_card")


def order_row(shop: Shop) -> Row:
    """Places an order or takes one a step on, and pictures it."""
    dice = shop.dice
    if dice.chance(0.5):
        order = shop.new_order()
    else:
        order = dice.recent(shop.orders, window=60)
        shop.touch_order(order)
    customer: Row | None = None
    if order.customer is not None:
        customer = {
            **order.customer.nested,
            "total_spent": order.customer.spent_cents / 100,
            "orders_count": order.customer.orders_count,
            "last_order_id": order.order_id,
            "last_order_name": f"#{order.number}",
        }
    return {
        "id": dice.maybe(order.order_id, present=0.997),
        "test": order.test,
        "customer": customer,
        "total_tax": dice.maybe(order.taxes / 100, present=0.97),
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        "cancelled_at": order.cancelled_at,
        "cancel_reason": order.cancel_reason,
        "total_discounts": dice.maybe(order.discounts / 100, present=0.95),
        "financial_status": order.financial_status,
        "fulfillment_status": order.fulfillment_status,
        "total_line_items_price": dice.maybe(order.gross / 100, present=0.97),
        "total_shipping_price_set": _shipping(dice, order.shipping),
    }


def _shipping(dice: Dice, cents: int) -> Row | None:
    """Nests the shipping; it can be absent at each level."""
    if dice.chance(0.97):
        return money_set(cents)
    return dice.pick((None, money_set(None), {"shop_money": None, "presentment_money": None}))


def customer_row(shop: Shop) -> Row:
    """Signs up a customer or changes one, and pictures it."""
    dice = shop.dice
    if dice.chance(0.4):
        customer = shop.new_customer()
    else:
        customer = dice.recent(shop.customers, window=50)
        shop.touch_customer(customer)
    return {
        "id": dice.maybe(customer.customer_id, present=0.997),
        "tags": customer.tags,
        "email": customer.email,
        "state": customer.state,
        "last_name": dice.maybe(customer.person.last_name),
        "created_at": customer.created_at,
        "first_name": dice.maybe(customer.person.first_name),
        "updated_at": customer.updated_at,
        "total_spent": _spent(dice, customer),
        "orders_count": customer.orders_count,
    }


def _spent(dice: Dice, customer: Customer) -> float | None:
    return dice.maybe(customer.spent_cents / 100, present=0.97)


def refund_row(shop: Shop) -> Row:
    """Refunds something, or settles, extends or moves a refund, and pictures it.

    A refund without an order has a refund id of its own, and never comes again: whether an order-less version
    supersedes an older one is an open question of the models, so nothing here depends on the answer.
    """
    dice = shop.dice
    order_id: int | None = None
    if dice.chance(0.005):
        refund = _new_refund(shop, dice.recent(shop.orders, window=60))
        refund_id = dice.maybe(refund.refund_id, present=0.5)
    elif not shop.refunds or dice.chance(0.55):
        refund = _new_refund(shop, dice.recent(shop.orders, window=60))
        shop.refunds.append(refund)
        refund_id, order_id = refund.refund_id, refund.order.order_id
    else:
        refund = dice.recent(shop.refunds, window=40)
        _touch_refund(shop, refund)
        refund_id, order_id = refund.refund_id, refund.order.order_id
    return {
        "id": refund_id,
        "order_id": order_id,
        "created_at": refund.created_at,
        "transactions": refund.transactions or dice.maybe([], present=0.5),
        "refund_line_items": refund.lines,
    }


def revise_order(shop: Shop, row: Row) -> Row:
    """Returns the same order with other amounts."""
    gross = shop.dice.between(100, 60_000)
    return {**row, "total_line_items_price": gross / 100, "total_tax": gross * 19 // 119 / 100}


def revise_refund(shop: Shop, row: Row) -> Row:
    """Returns the same refund of the same order with one transaction, another one."""
    transaction = _transaction(shop, shop.dice.recent(shop.orders, window=60))
    return {**row, "transactions": [{**transaction, "order_id": row["order_id"]}]}


def _new_refund(shop: Shop, order: Order) -> Refund:
    dice = shop.dice
    count = 0 if dice.chance(0.04) else 1 + dice.chance(0.2) + dice.chance(0.1)
    return Refund(
        refund_id=shop.next_id(),
        order=order,
        created_at=shop.recently(),
        transactions=[_transaction(shop, order) for _ in range(count)],
        lines=[_line(shop) for _ in range(dice.pick((0, 1, 1, 2)))],
    )


def _touch_refund(shop: Shop, refund: Refund) -> None:
    """Changes a refund. Lists are replaced and never changed in place: rows that landed share them."""
    dice = shop.dice
    if refund.transactions and dice.chance(0.5):
        settled = dice.pick(("success", "success", "failure", "error"))
        refund.transactions = [
            {**each, "status": settled} if each["status"] == "pending" else each
            for each in refund.transactions
        ]
    elif dice.chance(0.15):
        refund.order = dice.recent(shop.orders, window=60)
        refund.transactions = [{**each, "order_id": refund.order.order_id} for each in refund.transactions]
    elif len(refund.transactions) < 4 and dice.chance(0.6):
        refund.transactions = [*refund.transactions, _transaction(shop, refund.order)]
    else:
        refund.transactions = refund.transactions[:-1]


def _amount_text(dice: Dice) -> str | None:
    if dice.chance(0.02):
        return dice.pick(ODD_AMOUNTS)
    cents = dice.between(50, 9_000)
    if dice.chance(0.05):
        return f"{cents / 100:g}"
    return f"{cents // 100}.{cents % 100:02d}"


def _transaction(shop: Shop, order: Order) -> Row:
    """Draws a transaction of a refund: most are refunds that went well.

    One that is, or can become, successful always says whether it is a test: no rule says what null means.
    """
    dice = shop.dice
    kind = "refund" if dice.chance(0.88) else dice.pick(("void", "sale", "capture", "change", "REFUND", None))
    status = "success" if dice.chance(0.7) else dice.pick(("pending", "pending", "failure", "error", None))
    test: bool | None = dice.chance(0.04)
    if status in ("failure", "error", None):
        test = dice.maybe(test)
    transaction_id = shop.next_id()
    return {
        "id": transaction_id,
        "kind": kind,
        "test": test,
        "amount": _amount_text(dice),
        "status": status,
        "gateway": dice.pick(GATEWAYS),
        "message": dice.maybe("Rückzahlung genehmigt", present=0.5),
        "receipt": dice.maybe({"paid_amount": dice.maybe("12.50", present=0.5)}, present=0.7),
        "user_id": dice.maybe(shop.next_id(), present=0.5),
        "currency": CURRENCY,
        "order_id": order.order_id,
        "device_id": None,
        "parent_id": dice.maybe(transaction_id - 1),
        "created_at": "2024-11-05T14:03:09-05:00",
        "error_code": None if status != "failure" else "card_declined",
        "payment_id": f"c{dice.hex(64)}",
        "location_id": dice.maybe(65_432_109_876, present=0.3),
        "source_name": dice.pick(("web", "pos", "580111")),
        "processed_at": dice.maybe("2024-11-05T14:03:10-05:00"),
        "authorization": dice.maybe(dice.hex(48), present=0.6),
        "payment_details": dice.maybe(_card(dice), present=0.6),
        "admin_graphql_api_id": f"gid://shopify/OrderTransaction/{transaction_id}",
    }


def _card(dice: Dice) -> Row:
    return {
        "avs_result_code": dice.pick(("Y", "N", None)),
        "credit_card_bin": "424242",
        "cvv_result_code": dice.pick(("M", "P", None)),
        "credit_card_name": dice.maybe("J. Doe"),
        "buyer_action_info": None,
        "credit_card_number": f"•••• •••• •••• {dice.between(1_000, 9_999)}",
        "credit_card_wallet": dice.pick(("apple_pay", None)),
        "credit_card_company": dice.pick(("Visa", "Mastercard", "American Express")),
        "credit_card_expiration_year": dice.between(2025, 2031),
        "credit_card_expiration_month": dice.between(1, 12),
    }


def _line(shop: Shop) -> Row:
    dice = shop.dice
    price = dice.between(100, 9_000)
    tax = price * 19 // 119
    quantity = dice.between(1, 3)
    subtotal = money_set(price * quantity)
    line_item_id = shop.next_id()
    return {
        "id": shop.next_id(),
        "quantity": quantity,
        "subtotal": price * quantity / 100,
        "line_item": dice.maybe(_line_item(dice, line_item_id, price=price, tax=tax, quantity=quantity)),
        "total_tax": tax / 100,
        "location_id": dice.maybe(65_432_109_876, present=0.5),
        "line_item_id": line_item_id,
        "restock_type": dice.pick(("return", "cancel", "no_restock")),
        "subtotal_set": subtotal,
        "total_tax_set": dice.maybe(money_set(tax)),
    }


def _line_item(dice: Dice, line_item_id: int, *, price: int, tax: int, quantity: int) -> Row:
    product = dice.pick(PRODUCTS)
    discount = price // 10
    return {
        "id": line_item_id,
        "sku": dice.maybe(f"LL-{dice.between(1, 9_999):04d}"),
        "name": f"{product} / {dice.pick(('S', 'M', 'L'))}",
        "grams": dice.between(0, 2_500),
        "price": price / 100,
        "title": product,
        "duties": [{"duty_id": line_item_id + 1, "amount_set": money_set(99)}] if dice.chance(0.1) else [],
        "vendor": dice.maybe("Lotus & Söhne"),
        "taxable": True,
        "quantity": quantity,
        "gift_card": product == "Gift card",
        "price_set": money_set(price),
        "tax_lines": [
            {
                "rate": 0.19,
                "price": tax / 100,
                "title": "MwSt.",
                "price_set": money_set(tax),
                "channel_liable": dice.pick((False, None)),
            }
        ],
        "product_id": 7_100_000_000_000 + PRODUCTS.index(product),
        "properties": dice.pick(([], None, ['{"name": "Gravur", "value": "für \\"Zoë\\""}', "{}"])),
        "variant_id": 43_000_000_000_000 + dice.below(500),
        "pre_tax_price": (price - tax) / 100,
        "variant_title": dice.pick(("S", "M", "L", None)),
        "product_exists": dice.chance(0.95),
        "total_discount": discount / 100,
        "pre_tax_price_set": money_set(price - tax),
        "requires_shipping": product != "Gift card",
        "fulfillment_status": dice.pick(("fulfilled", "partial", None)),
        "total_discount_set": money_set(discount),
        "fulfillment_service": "manual",
        "admin_graphql_api_id": f"gid://shopify/LineItem/{line_item_id}",
        "discount_allocations": (
            [{"amount": discount / 100, "amount_set": money_set(discount), "discount_application_index": 0}]
            if dice.chance(0.5)
            else []
        ),
        "fulfillable_quantity": 0,
        "variant_inventory_management": dice.pick(("shopify", None)),
    }
