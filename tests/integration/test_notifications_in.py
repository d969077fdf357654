"""Notifications that others publish on `{ns}.events.>`: each form alone loads its object, all at once load it once."""

import asyncio
import base64
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.ingress.filer_pb2 import Entry, EventNotification
from tests.asking import command_json, connect
from tests.gob import gocdk_v1
from tests.helpers import wait_until
from tests.service import (
    ORDERS,
    RunningService,
    keys_in_queue,
    order_key,
    orders,
    put,
    put_all,
    running_service,
)

TIMEOUT_S = 60.0
ALONE = {"LOTUS_FILER_GRPC": "", "LOTUS_SWEEP_AT_START": "false"}
ODD = "part 1+größe & more"


@dataclass(frozen=True, kw_only=True)
class Told:
    """A notification as it is published: the subject's last token, the payload, and its headers."""

    on: str
    payload: bytes
    headers: Mapping[str, str] | None = None


def change(bucket: str, key: str, etag: str) -> tuple[str, bytes]:
    """What SeaweedFS says of a new object: its path, and the record."""
    path = f"/buckets/{bucket}/{key}"
    parent, _, name = path.rpartition("/")
    entry = Entry(name=name, extended={"Seaweed-X-Amz-ETag": etag.encode()})
    return path, EventNotification(new_entry=entry, new_parent_path=parent).SerializeToString()


def native_v1(bucket: str, key: str, etag: str) -> Told:
    return Told(on="seaweedfs", payload=gocdk_v1(*change(bucket, key, etag)))


def native_v2(bucket: str, key: str, etag: str) -> Told:
    path, body = change(bucket, key, etag)
    return Told(on="seaweedfs", payload=body, headers={"key": quote_plus(path)})


def s3_event(bucket: str, key: str, etag: str, *, source: str = "minio:s3") -> Told:
    encoded = key if source == "ceph:s3" else quote(key, safe="").replace("%20", "+")
    record = {
        "eventSource": source,
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": encoded, "eTag": etag, "size": 1}},
    }
    return Told(on="s3", payload=json.dumps({"Records": [record]}).encode())


def ceph_event(bucket: str, key: str, etag: str) -> Told:
    return s3_event(bucket, key, etag, source="ceph:s3")


FORMS: dict[str, Callable[[str, str, str], Told]] = {
    "Go CDK v1": native_v1,
    "Go CDK v2": native_v2,
    "S3 event": s3_event,
    "S3 event of Ceph": ceph_event,
}


def tell(tenant: Tenant, *all_told: Told) -> None:
    """Publishes notifications as their senders do: without waiting for JetStream."""

    async def publish() -> None:
        client = await connect(tenant)
        for told in all_told:
            headers = dict(told.headers) if told.headers else None
            await client.publish(f"{tenant.namespace}.events.{told.on}", told.payload, headers=headers)
        await client.flush()
        await client.close()

    asyncio.run(publish())


def open_claims(tenant: Tenant) -> int:
    """Notifications that wait or are in work."""

    async def ask() -> int:
        client = await connect(tenant)
        info = await client.jetstream().consumer_info(f"{tenant.namespace}_events", "events")
        await client.close()
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    return asyncio.run(ask())


def until_taken(service: RunningService) -> None:
    """Waits until no notification is left."""
    wait_until(lambda: open_claims(service.tenant) == 0, timeout_s=TIMEOUT_S, what="all to be taken in")


def rows_of(service: RunningService, key: str) -> list[tuple[object, ...]]:
    return service.rows("SELECT id FROM staging.stg_shopify__orders WHERE _source_file = ? ORDER BY id", key)


@pytest.fixture(scope="module")
def service(stack: Stack) -> Iterator[RunningService]:
    """A consumer that hears of nothing but notifications."""
    with running_service(stack.tenant("notified"), **ALONE) as service:
        yield service


@pytest.mark.parametrize("form", FORMS)
def test_each_form_alone_loads_its_object(service: RunningService, form: str) -> None:
    key = order_key(f"{ODD} {form}")
    with service.expecting(loaded=1):
        etag = put(service.tenant, key, orders(1, 2))
        tell(service.tenant, FORMS[form](service.tenant.landing_bucket, key, etag))
    assert rows_of(service, key) == [(1,), (2,)]
    until_taken(service)


def test_what_is_elsewhere_is_no_key_and_does_not_stay(service: RunningService) -> None:
    tenant, etag = service.tenant, "0" * 32
    before = service.outcomes()
    tell(
        tenant,
        native_v2("another-bucket", order_key("elsewhere"), etag),
        native_v2(tenant.landing_bucket, "outside/shopify/orders/2026_07_04_1_1.parquet", etag),
        native_v2(tenant.landing_bucket, "rawest/shopify/orders/2026_07_04_1_1.parquet", etag),
        Told(on="s3", payload=b'{"Event": "s3:TestEvent"}'),
    )
    until_taken(service)
    assert service.outcomes() == before
    dead = service.rows("SELECT count(*) FROM meta.feeder_failures WHERE reason = 'undecodable'")
    assert dead == [(0,)]


def test_one_that_nobody_understands_is_kept_whole_and_a_sweep_looks(service: RunningService) -> None:
    tenant, key = service.tenant, order_key("what it was about")
    payload = b"\x00\x01 no form that is known"
    with service.expecting(loaded=1):  # which nothing but the sweep can find
        put(tenant, key, orders(7))
        tell(tenant, Told(on="seaweedfs", payload=payload))
    [(detail,)] = service.rows("SELECT detail FROM meta.feeder_failures WHERE reason = 'undecodable'")
    about = json.loads(str(detail))
    assert about["subject"] == f"{tenant.namespace}.events.seaweedfs"
    assert about["bytes"] == len(payload)
    [letter] = [each for each in letters(tenant) if each.get("reason") == "undecodable"]
    assert base64.b64decode(letter["payload_base64"]) == payload
    until_taken(service)


def letters(tenant: Tenant) -> list[dict[str, str]]:
    """What the feed of dead letters says."""

    async def read() -> list[dict[str, str]]:
        client = await connect(tenant)
        js = client.jetstream()
        state = (await js.stream_info(f"{tenant.namespace}_dead")).state
        found = [await js.get_msg(f"{tenant.namespace}_dead", at + 1) for at in range(state.last_seq)]
        await client.close()
        return [json.loads(message.data or b"{}") for message in found]

    return asyncio.run(read())


def test_all_ways_together_load_each_version_once(stack: Stack) -> None:
    tenant = stack.tenant("allways")
    keys = [order_key(f"{ODD} {number}") for number in range(8)]
    with running_service(tenant) as service:
        for version in (1, 2):
            with service.expecting(**{"loaded" if version == 1 else "replaced": len(keys)}):
                told: list[Told] = []
                for number, key in enumerate(keys):
                    etag = put(tenant, key, orders(10 * number + version))
                    told += [form(tenant.landing_bucket, key, etag) for form in FORMS.values()]
                tell(tenant, *told)
            until_taken(service)
            wait_until(lambda: keys_in_queue(tenant, ORDERS) == 0, timeout_s=TIMEOUT_S, what="an empty queue")
        for number, key in enumerate(keys):
            assert rows_of(service, key) == [(10 * number + 2,)]
        ledger = service.rows(
            "SELECT action, count(*) FROM meta.feeder_files GROUP BY action ORDER BY action"
        )
        assert ledger == [("loaded", len(keys)), ("replaced", len(keys))]


def test_a_landing_of_which_a_third_of_the_notifications_are_dropped_is_complete_after_a_sweep(
    stack: Stack,
) -> None:
    dropped_ones_are_swept(stack.tenant("dropped"), objects=100)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_two_thousand_objects_of_which_a_third_of_the_notifications_are_dropped(stack: Stack) -> None:
    dropped_ones_are_swept(stack.tenant("dropped2000"), objects=2000)


def dropped_ones_are_swept(tenant: Tenant, *, objects: int) -> None:
    """Lands objects, tells of 70 % of them in any order, and sweeps."""
    keys = [order_key(f"{number:04}") for number in range(objects)]
    with running_service(tenant, **ALONE) as service:
        etags = put_all(tenant, {key: orders(number) for number, key in enumerate(keys)})
        told = random.Random(30).sample(keys, k=objects * 7 // 10)
        with service.expecting(loaded=len(told)):
            tell(tenant, *(native_v2(tenant.landing_bucket, key, etags[key]) for key in told))
        until_taken(service)
        assert {key for (key,) in service.rows("SELECT key FROM meta.feeder_files")} == set(told)
        with service.expecting(loaded=objects - len(told)):
            swept = command_json(tenant, "sweep")
        assert (swept["listed"], swept["published"]) == (objects, objects - len(told))
        assert service.rows(
            "SELECT found_by, count(*) FROM meta.feeder_files GROUP BY found_by ORDER BY found_by"
        ) == [("seaweedfs", len(told)), ("sweep", objects - len(told))]
        assert service.rows(
            "SELECT count(*), count(DISTINCT id), count(DISTINCT _source_file) FROM staging.stg_shopify__orders"
        ) == [(objects, objects, objects)]
        assert command_json(tenant, "sweep")["published"] == 0
