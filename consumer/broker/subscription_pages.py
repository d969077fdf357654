"""The subscriptions to the queue, page by page; nats-py drops how many there are, and which did not answer."""

import json
from typing import Any

from nats.aio.client import Client
from nats.js import errors as js_errors

from consumer.broker.config import BrokerConfig, keys_stream


async def list_subscriptions(client: Client, config: BrokerConfig) -> dict[str, tuple[int, int] | None]:
    """Ask how many key events wait and how many are claimed, by subscription: one request for 256 of them.

    Returns:
        None for one that is there and whose server did not answer in time: on a cluster each has its own.

    Raises:
        nats.errors.Error, js_errors.APIError: no answer, or a refusal.
    """
    name = f"$JS.API.CONSUMER.LIST.{keys_stream(config).name}"
    listed: dict[str, tuple[int, int] | None] = {}
    offset, total = 0, 1
    while offset < total:
        request = json.dumps({"offset": offset}).encode()
        message = await client.request(name, request, timeout=config.request_timeout_s)
        page: dict[str, Any] = json.loads(message.data)
        if "error" in page:
            js_errors.APIError.from_error(page["error"])
        found: list[dict[str, Any]] = page.get("consumers") or []
        missing: list[str] = page.get("missing") or []
        listed |= dict.fromkeys(missing)
        listed |= {each["name"]: (each["num_pending"], each["num_ack_pending"]) for each in found}
        offset, total = offset + len(found) + len(missing), int(page["total"])
        if not found and not missing:
            break
    return listed
