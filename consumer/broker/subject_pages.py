"""The subjects in the queue, page by page; nats-py asks for the first page only."""

import json
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.js import errors as js_errors

from consumer.broker.config import BrokerConfig, keys_stream

TIMEOUT_S = 60.0
"""Of a million subjects the server takes 14 s for a page (docs/performance.md)."""


@dataclass(frozen=True, kw_only=True)
class SubjectPage:
    """Some of the subjects, and how many there are."""

    subjects: tuple[str, ...]
    total: int


async def list_subjects(client: Client, config: BrokerConfig, subjects: str, *, offset: int) -> SubjectPage:
    """Ask for the subjects that a filter matches, from number `offset` on, at most 100,000 (the server's page).

    Raises:
        nats.errors.Error, js_errors.APIError: no answer, or a refusal.
    """
    request = json.dumps({"subjects_filter": subjects, "offset": offset}).encode()
    name = f"$JS.API.STREAM.INFO.{keys_stream(config).name}"
    message = await client.request(name, request, timeout=TIMEOUT_S)
    document: dict[str, Any] = json.loads(message.data)
    if "error" in document:
        js_errors.APIError.from_error(document["error"])
    found: dict[str, int] = document["state"].get("subjects") or {}
    return SubjectPage(subjects=tuple(found), total=int(document.get("total", len(found))))
