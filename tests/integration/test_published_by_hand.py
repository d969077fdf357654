"""What anyone may publish: the examples of docs/operations.md load their object, a wrong one gets its reason."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from consumer.embedded.identity import Tenant
from tests.asking import Document, connect
from tests.service import order_key, orders, put, running_service

DOCS = Path(__file__).parents[2] / "docs"
ALONE = {"LOTUS_FILER_GRPC": "", "LOTUS_SWEEP_AT_START": "false"}


def published() -> list[tuple[str, str]]:
    """The subjects and payloads of the commands `nats pub` of the section."""
    text = (
        (DOCS / "operations.md")
        .read_text()
        .partition("## Publishing a key yourself")[2]
        .partition("\n## ")[0]
    )
    return re.findall(r"nats pub (lake\.\S+) '(\{.*?\})'\n", text, re.DOTALL)


def publish(tenant: Tenant, subject: str, document: Document) -> None:
    """Publishes as in the text, in the tenant's namespace."""

    async def run() -> None:
        client = await connect(tenant)
        ours = subject.replace("lake.", f"{tenant.namespace}.", 1)
        await client.publish(ours, json.dumps(document).encode())
        await client.flush()
        await client.close()

    asyncio.run(run())


@pytest.mark.timeout(300)
def test_what_the_text_says_works(tenant: Tenant) -> None:
    (key_subject, key_text), (s3_subject, s3_text) = published()
    event, s3_event = json.loads(key_text), json.loads(s3_text)
    schema = json.loads((DOCS / "key-event.schema.json").read_text())
    Draft202012Validator(schema).validate(event)
    with running_service(tenant, **ALONE) as service:
        with service.expecting(loaded=2):
            event |= {"bucket": tenant.landing_bucket, "key": order_key("by hand")}
            put(tenant, event["key"], orders(1))
            publish(tenant, key_subject, event)
            [record] = s3_event["Records"]
            record["s3"]["bucket"]["name"] = tenant.landing_bucket
            record["s3"]["object"]["key"] = order_key("s3")
            put(tenant, order_key("s3"), orders(2))
            publish(tenant, s3_subject, s3_event)
        assert service.rows("SELECT key, found_by FROM meta.feeder_files ORDER BY key") == [
            (order_key("by hand"), event["found_by"]),
            (order_key("s3"), "s3_event"),
        ]
        # Loaded is loaded, however often it is told; and what is wrong says what.
        with service.expecting(duplicate=1, undecodable=1):
            publish(tenant, key_subject, event)
            publish(tenant, key_subject.replace("orders", "customers"), event | {"colour": "red"})
        assert service.rows("SELECT reason, detail->>'error' FROM meta.feeder_failures") == [
            ("undecodable", "key event, 'colour': unknown field; lotus-lake.key/1 has none of that name")
        ]
