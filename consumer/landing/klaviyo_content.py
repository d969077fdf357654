"""Rows of what a Klaviyo account sends and keeps: campaigns, flows, lists and metrics."""

from consumer.landing.klaviyo import API, METRICS, Account, json_text
from consumer.landing.people import Row
from consumer.landing.shop import DAY_US, HOUR_US


def _reference(kind: str, object_id: str, what: str, *, data: list[Row] | None) -> Row:
    base = f"{API}/{kind}/{object_id}"
    return {"data": data, "links": {"self": f"{base}/relationships/{what}/", "related": f"{base}/{what}/"}}


def _tags(account: Account, kind: str, object_id: str) -> Row:
    dice = account.shop.dice
    data: list[Row] | None = [{"type": "tag", "id": dice.uuid()} for _ in range(dice.below(3))]
    return _reference(kind, object_id, "tags", data=dice.maybe(data))


def campaign_row(account: Account) -> Row:
    """Plans a campaign or changes one, and pictures it."""
    shop = account.shop
    dice = shop.dice
    campaign = account.some_named("campaigns")
    updated = shop.recently()
    scheduled = updated + dice.below(72) * HOUR_US
    attributes: Row = {
        "name": campaign.name,
        "status": dice.pick(("Draft", "Scheduled", "Sent", "Cancelled")),
        "channel": dice.pick(("email", "sms")),
        "message": dice.maybe(dice.hex(64), present=0.5),
        "archived": dice.maybe(dice.chance(0.1)),
        "audiences": {
            "excluded": dice.pick(([], None, [dice.hex(24)])),
            "included": [dice.hex(24) for _ in range(dice.between(1, 3))],
        },
        "send_time": dice.maybe(scheduled, present=0.5),
        "created_at": campaign.created_at,
        "updated_at": updated,
        "scheduled_at": dice.maybe(scheduled, present=0.6),
        "send_options": dice.maybe({"use_smart_sending": dice.chance(0.7), "ignore_unsubscribes": False}),
        "send_strategy": _send_strategy(account, scheduled),
        "tracking_options": dice.maybe(
            {
                "is_add_utm": True,
                "utm_params": [{"name": "utm_medium", "value": "campaign"}, {"name": "größe", "value": None}],
                "is_tracking_opens": dice.chance(0.9),
                "is_tracking_clicks": dice.chance(0.9),
                "add_tracking_params": None,
            }
        ),
    }
    message_id = dice.hex(64)
    return {
        "id": dice.maybe(campaign.named_id, present=0.997),
        "type": "campaign",
        "links": {"self": f"{API}/campaigns/{campaign.named_id}/"},
        "attributes": attributes,
        "updated_at": updated,
        "relationships": {
            "tags": _tags(account, "campaigns", campaign.named_id),
            "campaign_messages": _reference(
                "campaigns",
                campaign.named_id,
                "campaign-messages",
                data=[{"type": "campaign-message", "id": message_id}],
            ),
        },
    }


def _send_strategy(account: Account, scheduled: int) -> Row:
    dice = account.shop.dice
    method = dice.pick(("static", "throttled", "smart_send_time", "immediate"))
    strategy: Row = {"method": method, "options_sto": None, "options_static": None, "options_throttled": None}
    if method == "smart_send_time":
        strategy["options_sto"] = {"date": scheduled // DAY_US}
    elif method == "static":
        strategy["options_static"] = {
            "datetime": scheduled,
            "is_local": dice.chance(0.3),
            "send_past_recipients_immediately": dice.pick((None, True, False)),
        }
    elif method == "throttled":
        strategy["options_throttled"] = {
            "datetime": scheduled,
            "throttle_percentage": dice.pick((10, 25, 50)),
        }
    return strategy


def flow_row(account: Account) -> Row:
    """Draws up a flow or changes one, and pictures it."""
    shop = account.shop
    dice = shop.dice
    flow = account.some_named("flows")
    updated = shop.recently()
    actions: list[Row] = [{"type": "flow-action", "id": str(shop.next_id())} for _ in range(dice.below(4))]
    return {
        "id": dice.maybe(flow.named_id, present=0.997),
        "type": "flow",
        "links": {"self": f"{API}/flows/{flow.named_id}/"},
        "updated": updated,
        "attributes": {
            "name": flow.name,
            "status": dice.pick(("live", "draft", "manual")),
            "created": flow.created_at,
            "updated": updated,
            "archived": dice.chance(0.1),
            "trigger_type": dice.pick(("Added to List", "Metric", "Date Based", "Unconfigured", None)),
        },
        "relationships": {
            "tags": _tags(account, "flows", flow.named_id),
            "flow_actions": _reference("flows", flow.named_id, "flow-actions", data=actions),
        },
    }


def list_row(account: Account) -> Row:
    """Makes a list or changes one, and pictures it."""
    shop = account.shop
    dice = shop.dice
    kept = account.some_named("lists")
    base = f"{API}/lists/{kept.named_id}"
    updated = shop.recently()
    profiles = {"self": f"{base}/relationships/profiles/", "related": f"{base}/profiles/"}
    triggers = {"self": f"{base}/relationships/flow-triggers/", "related": f"{base}/flow-triggers/"}
    return {
        "id": dice.maybe(kept.named_id, present=0.997),
        "type": "list",
        "links": {"self": f"{base}/"},
        "updated": updated,
        "attributes": {
            "name": kept.name,
            "created": kept.created_at,
            "updated": updated,
            "opt_in_process": dice.pick(("double_opt_in", "single_opt_in")),
        },
        "relationships": {
            "tags": _tags(account, "lists", kept.named_id),
            "profiles": {"links": profiles},
            "flow_triggers": dice.maybe(
                {"data": dice.maybe({"type": "flow", "id": dice.hex(24)}, present=0.5), "links": triggers}
            ),
        },
    }


def metric_row(account: Account) -> Row:
    """Pictures one of the account's metrics."""
    shop = account.shop
    dice = shop.dice
    metric = account.some_metric()
    updated = shop.recently()
    base = f"{API}/metrics/{metric.named_id}"
    integration = {
        "object": "integration",
        "id": dice.hex(24),
        "name": dice.pick(("Shopify", "API", "Käsekrainer")),
        "category": {"id": METRICS.index(metric.name), "labels": ["eCommerce", "日本"], "parent": None},
    }
    triggers = {"self": f"{base}/relationships/flow-triggers/", "related": f"{base}/flow-triggers/"}
    return {
        "id": dice.maybe(metric.named_id, present=0.997),
        "type": "metric",
        "links": {"self": f"{base}/"},
        "attributes": {
            "name": metric.name,
            "created": metric.created_at,
            "updated": updated,
            "integration": dice.maybe(json_text(integration)),
        },
        "updated": updated,
        "relationships": dice.maybe(
            {
                "flow_triggers": {
                    "data": dice.maybe({"type": "flow", "id": dice.hex(24)}, present=0.4),
                    "links": triggers,
                }
            }
        ),
    }
