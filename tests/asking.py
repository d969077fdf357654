"""Requests to a service, as any NATS client would send them, and the commands that do the same."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from typer.testing import CliRunner, Result

from consumer.cli import app
from consumer.embedded.identity import Tenant
from tests.helpers import wait_until, wait_until_async

Document = dict[str, Any]


async def connect(tenant: Tenant) -> Client:
    """A client that is not ours."""
    return await nats.connect(tenant.endpoints.nats_url, user=tenant.nats_user, password=tenant.nats_password)


async def ask(
    client: Client, tenant: Tenant, document: Mapping[str, object] | bytes, *, service: str = "replay"
) -> tuple[Document, Mapping[str, str]]:
    """Sends a request; returns the reply's JSON and its headers."""
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    message: Msg = await client.request(f"{tenant.namespace}.{service}", payload, timeout=30)
    return json.loads(message.data), message.headers or {}


def request(
    tenant: Tenant, document: Mapping[str, object] | bytes, *, service: str = "replay"
) -> tuple[Document, Mapping[str, str]]:
    """The same over a connection that is opened for it."""

    async def run() -> tuple[Document, Mapping[str, str]]:
        client = await connect(tenant)
        try:
            await wait_until_async(lambda: is_offered(client, tenant), what="the services")
            return await ask(client, tenant, document, service=service)
        finally:
            await client.close()

    return asyncio.run(run())


async def is_offered(client: Client, tenant: Tenant) -> bool:
    """Says whether the services answer: they come a moment after the writer."""
    try:
        await ask(client, tenant, {"op": "summary"}, service="dead")
    except NoRespondersError:
        return False
    return True


def wait_until_done(tenant: Tenant, answer: Mapping[str, object]) -> Document:
    """Waits until a replay has ended; returns its status."""

    def look() -> Document | None:
        status, _ = request(tenant, {"id": answer["id"]}, service="replay.status")
        return status if status["state"] not in ("queueing", "queued") else None

    found = wait_until(look, timeout_s=60, what="the replay to be done")
    assert found is not None
    return found


def replay_schemas() -> dict[str, Document]:
    """The definitions of the JSON Schemas in docs/replay.md, by the schema's name."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "replay.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"```json\n(\{\n.*?)```", text, re.DOTALL)]
    return {block["$id"]: block["$defs"] for block in blocks}


def command(tenant: Tenant, *arguments: str, **changes: str) -> Result:
    """Runs `lotus-lake` with these arguments and the tenant's settings; log lines of a service may stand between.

    `changes` are settings.
    """
    return CliRunner().invoke(app, [*arguments], env=tenant.env() | changes)


def command_json(tenant: Tenant, *arguments: str) -> Any:
    """The one line of JSON that a command prints with --json."""
    done = command(tenant, *arguments, "--json")
    [line] = [line for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    return json.loads(line)
