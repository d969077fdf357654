"""The filer tail on a real SeaweedFS: what S3 clients do arrives as the events that S3's HEAD would tell."""

import asyncio
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import grpc
import grpc.aio
import pytest
from botocore.config import Config

from consumer.broker import Broker, BrokerConfig
from consumer.embedded.identity import S3Identity, Tenant
from consumer.embedded.stack import Stack
from consumer.errors import Misconfigured, Unavailable, Undecodable
from consumer.events import KeyEvent
from consumer.ingress.filer_pb2 import SubscribeMetadataRequest, SubscribeMetadataResponse
from consumer.ingress.filer_tail import FilerTail, FilerTailConfig, FilerTls
from feeders.streams import StreamId
from tests.helpers import wait_until_async

ORDERS = StreamId(source="shopify", stream="orders")


class Landing:
    """The landing bucket as Airbyte sees it; every call runs in a thread."""

    def __init__(self, tenant: Tenant, identity: S3Identity | None = None) -> None:
        identity = identity or tenant.lander
        self.bucket = tenant.landing_bucket
        self.filer_url = tenant.endpoints.filer_http
        self.client: Any = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=tenant.endpoints.s3_url,
            region_name="us-east-1",
            aws_access_key_id=identity.access_key_id,
            aws_secret_access_key=identity.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    async def call(self, operation: str, key: str | None = None, **parameters: object) -> dict[str, Any]:
        if key is not None:
            parameters["Key"] = key
        return await asyncio.to_thread(
            getattr(self.client, operation), **{"Bucket": self.bucket, **parameters}
        )

    async def put(self, key: str, body: bytes = b"x") -> dict[str, Any]:
        return await self.call("put_object", key, Body=body)

    async def head(self, key: str) -> KeyEvent:
        """Return the event that a look at the object gives."""
        found = await self.call("head_object", key)
        return KeyEvent(
            event="created",
            bucket=self.bucket,
            key=key,
            etag=found["ETag"].strip('"'),
            size=found["ContentLength"],
            mtime=found["LastModified"].timestamp(),
            version_id=found.get("VersionId"),
            found_by="sweep",
            sent_at=datetime.now(UTC),
        )

    async def rename(self, old: str, new: str) -> None:
        url = f"{self.filer_url}/buckets/{self.bucket}/{urllib.parse.quote(new)}?" + urllib.parse.urlencode(
            {"mv.from": f"/buckets/{self.bucket}/{old}"}
        )
        request = urllib.request.Request(url, method="POST")  # noqa: S310 - http, on this machine
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=10).close())  # noqa: S310


class Recorder:
    """Keeps what the tail publishes and saves, and what it tells of itself."""

    def __init__(self, position: int | None = None) -> None:
        self.events: list[KeyEvent] = []
        self.position = position
        self.is_available = True
        self.refused = 0
        self.connects = 0
        self.reasons: list[str] = []
        self.errors: list[Undecodable] = []
        self.gaps: list[str] = []

    async def publish(self, event: KeyEvent) -> bool:
        if not self.is_available:
            self.refused += 1
            raise Unavailable("nats", "gone")
        self.events.append(event)
        return True

    async def load(self) -> int | None:
        return self.position

    async def save(self, position: int) -> None:
        self.position = position

    def connected(self) -> None:
        self.connects += 1

    def disconnected(self, reason: str) -> None:
        self.reasons.append(reason)

    def published(self, event: KeyEvent, *, is_new: bool, delay_s: float) -> None:
        assert delay_s < 60

    def undecodable(self, error: Undecodable) -> None:
        self.errors.append(error)

    def position_lost(self) -> None:
        self.gaps.append("position_lost")

    def returned(self) -> None:
        self.gaps.append("returned")

    def log_lost(self, reason: str) -> None:
        self.gaps.append(f"log_lost: {reason}")

    def about(self, key: str) -> list[str]:
        return [event.event for event in self.events if event.key == key]

    async def hears(self, what: Callable[[], object], why: str) -> None:
        async def answer() -> bool:
            return bool(what())

        await wait_until_async(answer, timeout_s=30, what=why)


@pytest.fixture
def landing(tenant: Tenant) -> Landing:
    return Landing(tenant)


@pytest.fixture
def config(tenant: Tenant) -> FilerTailConfig:
    return FilerTailConfig(
        address=tenant.endpoints.filer_grpc,
        bucket=tenant.landing_bucket,
        prefix="raw",
        save_interval_s=0.1,
        backoff_max_s=0.5,
    )


@asynccontextmanager
async def _following(config: FilerTailConfig, recorder: Recorder) -> AsyncGenerator[FilerTail]:
    connects = recorder.connects
    tail = FilerTail(config, recorder.publish, recorder.load, recorder.save, recorder)
    running = asyncio.create_task(tail.run())
    try:
        await recorder.hears(lambda: running.done() or recorder.position, "the tail has a position")
        yield tail
        assert recorder.connects > connects
        assert not running.done()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_every_way_to_write_an_object(
    stack: Stack, tenant: Tenant, config: FilerTailConfig, landing: Landing
) -> None:
    admin, recorder = Landing(tenant, stack.admin), Recorder()
    async with _following(config, recorder):
        await landing.put("raw/put é+ %.parquet", b"one")
        put = await landing.head("raw/put é+ %.parquet")
        await landing.put("raw/empty.parquet", b"")
        await landing.put("raw/large.parquet", bytes(9_000_000))
        await landing.put("raw/over.parquet", b"one")
        await landing.put("raw/over.parquet", b"another")
        await landing.call("copy_object", "raw/copy.parquet", CopySource=f"{landing.bucket}/raw/over.parquet")
        upload = (await landing.call("create_multipart_upload", "raw/parts.parquet"))["UploadId"]
        parts = [
            {
                "PartNumber": number,
                "ETag": (
                    await landing.call(
                        "upload_part",
                        "raw/parts.parquet",
                        UploadId=upload,
                        PartNumber=number,
                        Body=bytes(5 * 1024 * 1024 + number),
                    )
                )["ETag"],
            }
            for number in (1, 2)
        ]
        await landing.call(
            "complete_multipart_upload",
            "raw/parts.parquet",
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )
        await admin.call(
            "put_object_tagging", "raw/over.parquet", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}
        )
        await landing.put("raw/last.parquet")
        await recorder.hears(lambda: recorder.about("raw/last.parquet"), "the last object")
        seen = await asyncio.gather(
            *(
                landing.head(f"raw/{name}.parquet")
                for name in ("put é+ %", "empty", "large", "over", "copy", "parts", "last")
            )
        )
    assert seen[0] == replace(put, sent_at=seen[0].sent_at)
    found = {event.key: event for event in recorder.events}
    assert [found[event.key].identity() for event in seen] == [event.identity() for event in seen]
    assert all(event.etag and event.found_by == "filer_tail" for event in recorder.events)
    assert {key: len(recorder.about(key)) for key in found} == {
        **dict.fromkeys(found, 1),
        "raw/over.parquet": 2,
    }
    assert recorder.errors == []


async def test_a_listing_gives_the_same_identity(config: FilerTailConfig, landing: Landing) -> None:
    recorder = Recorder()
    async with _following(config, recorder):
        for number in range(20):
            await landing.put(f"raw/{number}.parquet", b"x" * number)
        await recorder.hears(lambda: len(recorder.events) == 20, "all objects")
        listed = (await landing.call("list_objects_v2", Prefix="raw/"))["Contents"]
    identities = {
        KeyEvent(
            event="created",
            bucket=landing.bucket,
            key=item["Key"],
            etag=item["ETag"].strip('"'),
            size=item["Size"],
            mtime=item["LastModified"].timestamp(),
            found_by="sweep",
            sent_at=datetime.now(UTC),
        ).identity()
        for item in listed
    }
    assert identities == {event.identity() for event in recorder.events}


async def test_removals_and_renames(config: FilerTailConfig, landing: Landing) -> None:
    recorder = Recorder()
    async with _following(config, recorder):
        for name in ("a", "b", "c", "dir/d"):
            await landing.put(f"raw/{name}.parquet", name.encode())
        head = await landing.head("raw/a.parquet")
        await landing.call("delete_object", "raw/a.parquet")
        await landing.call("delete_objects", Delete={"Objects": [{"Key": "raw/b.parquet"}]})
        await landing.rename("raw/c.parquet", "raw/moved.parquet")
        await landing.rename("raw/dir", "raw/folder")
        await landing.rename("raw/moved.parquet", "elsewhere/moved.parquet")
        await recorder.hears(lambda: len(recorder.about("raw/moved.parquet")) == 2, "the last removal")
        await recorder.hears(lambda: recorder.about("raw/folder/d.parquet"), "the renamed folder")
    created = ["raw/a.parquet", "raw/b.parquet", "raw/c.parquet", "raw/dir/d.parquet", "raw/moved.parquet"]
    assert [recorder.about(key) for key in created] == [["created", "removed"]] * 5
    assert recorder.about("raw/folder/d.parquet") == ["created"]
    assert {event.key for event in recorder.events} == {*created, "raw/folder/d.parquet"}
    [removed] = [event for event in recorder.events if (event.key, event.event) == (head.key, "removed")]
    assert removed.identity() == replace(head, event="removed").identity()


async def test_a_versioned_bucket(stack: Stack, config: FilerTailConfig, tenant: Tenant) -> None:
    admin, recorder = Landing(tenant, stack.admin), Recorder()
    await admin.call("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
    async with _following(config, recorder):
        versions = [(await admin.put("raw/a.parquet", body))["VersionId"] for body in (b"1", b"two")]
        head = await admin.head("raw/a.parquet")
        await admin.call("delete_object", "raw/a.parquet")
        await admin.put("raw/last.parquet")
        await recorder.hears(lambda: recorder.about("raw/last.parquet"), "the last object")
    assert recorder.about("raw/a.parquet") == ["created", "created", "removed"]
    assert [event.version_id for event in recorder.events[:2]] == versions
    assert recorder.events[1].identity() == head.identity()


async def test_only_our_bucket_and_prefix(stack: Stack, config: FilerTailConfig, landing: Landing) -> None:
    other = Landing(stack.tenant(f"{landing.bucket.removesuffix('-landing')}x"))
    recorder = Recorder()
    async with _following(config, recorder):
        await other.put("raw/theirs.parquet")
        for key in ("rawer/a.parquet", "raw", "other/raw/a.parquet", "raw2.parquet"):
            await landing.put(key)
        await landing.call("delete_object", "raw")
        await landing.put("raw/ours.csv")
        await recorder.hears(lambda: recorder.about("raw/ours.csv"), "our object")
    assert [event.key for event in recorder.events] == ["raw/ours.csv"]


async def test_the_first_start_begins_now_and_the_next_where_it_ended(
    config: FilerTailConfig, landing: Landing
) -> None:
    await landing.put("raw/before.parquet")
    recorder = Recorder()
    exact = replace(config, overlap_s=0)
    async with _following(exact, recorder) as tail:
        await landing.put("raw/first.parquet")
        await recorder.hears(lambda: recorder.about("raw/first.parquet"), "the first object")
        received = tail._received_ns  # pyright: ignore[reportPrivateUsage] - the filer's time of that event
        await recorder.hears(lambda: recorder.position == received, "its position is saved")
    await landing.put("raw/meanwhile.parquet")
    async with _following(exact, recorder):
        await recorder.hears(lambda: recorder.about("raw/meanwhile.parquet"), "what came in between")
    # The event at the position itself may come once more: since_ns is not exclusive in the filer's memory.
    assert {event.key for event in recorder.events} == {"raw/first.parquet", "raw/meanwhile.parquet"}
    async with _following(replace(config, overlap_s=600), recorder):  # the overlap repeats, by itself
        await recorder.hears(lambda: recorder.about("raw/before.parquet"), "the overlap")


async def test_a_position_in_the_future_is_not_waited_for(config: FilerTailConfig, landing: Landing) -> None:
    recorder = Recorder(position=4_000_000_000_000_000_000)
    async with _following(config, recorder):
        await landing.put("raw/a.parquet")
        await recorder.hears(lambda: recorder.about("raw/a.parquet"), "the object")


async def test_nothing_is_lost_while_the_queue_is_away(config: FilerTailConfig, landing: Landing) -> None:
    recorder = Recorder()
    async with _following(replace(config, max_in_flight=4, save_interval_s=0.01), recorder) as tail:
        await landing.put("raw/a.parquet")
        await recorder.hears(lambda: recorder.events, "the first object")
        first = tail._received_ns  # pyright: ignore[reportPrivateUsage] - the filer's time of that event
        await recorder.hears(lambda: recorder.position == first, "its position is saved")
        recorder.is_available = False
        await asyncio.gather(*(landing.put(f"raw/{number}.parquet") for number in range(30)))
        assert recorder.refused > 0
        assert recorder.position == first
        recorder.is_available = True
        await recorder.hears(lambda: len(recorder.events) == 31, "all objects")
        await recorder.hears(lambda: recorder.position != first, "the position moves on")


async def test_the_filer_is_killed_and_comes_back(
    stack: Stack, config: FilerTailConfig, landing: Landing
) -> None:
    recorder = Recorder()
    stored: dict[str, None] = {}

    async def put(first: int) -> None:
        for number in range(first, first + 200):
            with suppress(Exception):
                await landing.put(f"raw/{number}.parquet")
                stored[f"raw/{number}.parquet"] = None

    async with _following(config, recorder) as tail:
        await landing.put("raw/first.parquet")
        await recorder.hears(lambda: recorder.events, "the first object")
        putting = asyncio.create_task(put(0))
        await recorder.hears(lambda: len(stored) > 20, "some objects")
        await asyncio.to_thread(stack.weed.kill)
        await putting
        await recorder.hears(lambda: len(recorder.reasons) > 2, "attempts to connect")
        before = list(stored)
        connects = recorder.connects
        await asyncio.to_thread(stack.weed.start)
        await recorder.hears(lambda: recorder.connects > connects, "the filer is back")
        await put(1000)
        later = stored.keys() - set(before)
        await recorder.hears(lambda: later <= {event.key for event in recorder.events}, "all from after it")
        # Events that were on their way when it was killed are in no log; that some are missing is told below.
        heard = {event.key for event in recorder.events}
        assert {key for key in before if key not in heard} <= set(before[-10:])
        assert len(stored) >= 200
        assert tail.lag_s is not None
    assert recorder.gaps == ["position_lost", "returned"]


async def test_a_log_that_does_not_reach_back_is_given_up(config: FilerTailConfig) -> None:
    """The filer only says that it can't read its log: asked for that position again, it would say so for ever."""
    refused: list[int] = []
    recorder = Recorder(position=time.time_ns() - 3600 * 10**9)
    server = grpc.aio.server()

    async def subscribe(
        request: SubscribeMetadataRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncGenerator[SubscribeMetadataResponse]:
        if request.since_ns < time.time_ns() - 60 * 10**9:
            refused.append(request.since_ns)
            await context.abort(grpc.StatusCode.UNKNOWN, "reading from persisted logs: volume 7 not found")
        yield SubscribeMetadataResponse(ts_ns=time.time_ns())
        await asyncio.Event().wait()

    handler = grpc.unary_stream_rpc_method_handler(
        subscribe,
        request_deserializer=SubscribeMetadataRequest.FromString,
        response_serializer=SubscribeMetadataResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("filer_pb.SeaweedFiler", {"SubscribeMetadata": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        there = replace(config, address=f"127.0.0.1:{port}", unreadable_s=0.3, backoff_max_s=0.05)
        async with _following(there, recorder) as tail:
            await recorder.hears(lambda: tail.caught_up_at, "the tail follows again")
    finally:
        await server.stop(None)
    assert len(refused) > 1
    assert [gap.partition(":")[0] for gap in recorder.gaps] == ["log_lost"]
    assert recorder.position is not None
    assert recorder.position < time.time_ns()


async def test_a_filer_that_was_silent_may_have_been_killed(config: FilerTailConfig) -> None:
    """It may be back before its silence is noticed, so that no attempt fails; its clients were not cut off with us."""
    recorder = Recorder(position=time.time_ns())
    server = grpc.aio.server()

    async def subscribe(
        request: SubscribeMetadataRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncGenerator[SubscribeMetadataResponse]:
        yield SubscribeMetadataResponse(ts_ns=time.time_ns())
        await asyncio.Event().wait()

    handler = grpc.unary_stream_rpc_method_handler(
        subscribe,
        request_deserializer=SubscribeMetadataRequest.FromString,
        response_serializer=SubscribeMetadataResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("filer_pb.SeaweedFiler", {"SubscribeMetadata": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        there = replace(config, address=f"127.0.0.1:{port}", silence_s=0.3, backoff_max_s=0.05)
        async with _following(there, recorder):
            await recorder.hears(lambda: recorder.gaps, "a gap")
    finally:
        await server.stop(None)
    assert set(recorder.gaps) == {"returned"}


async def test_a_quiet_log_is_known_to_be_caught_up(config: FilerTailConfig) -> None:
    recorder = Recorder()
    before = datetime.now(UTC)
    async with _following(config, recorder) as tail:
        await recorder.hears(lambda: tail.caught_up_at, "a heartbeat")
        assert tail.caught_up_at is not None
        assert tail.caught_up_at > before
        assert tail.lag_s is not None
        assert tail.lag_s < 30


async def test_a_wrong_queue_ends_the_tail(config: FilerTailConfig, landing: Landing) -> None:
    recorder = Recorder()

    async def publish(event: KeyEvent) -> bool:
        raise Misconfigured(f"no place for {event.key}", hint="make one")

    tail = FilerTail(config, publish, recorder.load, recorder.save)
    running = asyncio.create_task(tail.run())
    await recorder.hears(lambda: recorder.position, "the tail has a position")
    await landing.put("raw/a.parquet")
    with pytest.raises(Misconfigured, match=r"no place for raw/a\.parquet"):
        await running


async def test_missing_tls_files_are_named(config: FilerTailConfig, tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    tls = FilerTls(ca_file=missing, cert_file=missing, key_file=missing)
    recorder = Recorder()
    tail = FilerTail(replace(config, tls=tls), recorder.publish, recorder.load, recorder.save)
    with pytest.raises(Misconfigured, match=r"ca\.pem"):
        await tail.run()


async def test_events_reach_the_queue_of_their_stream(
    stack: Stack, config: FilerTailConfig, landing: Landing, tenant: Tenant
) -> None:
    broker = await Broker.connect(
        BrokerConfig(
            url=stack.endpoints.nats_url,
            user=tenant.nats_user,
            password=tenant.nats_password,
            namespace=tenant.namespace,
        )
    )
    recorder = Recorder()

    async def publish(event: KeyEvent) -> bool:
        is_new = await broker.publish_key(event, ORDERS if "/orders/" in event.key else None)
        recorder.events.append(event)
        return is_new

    try:
        await broker.ensure()
        await broker.subscribe([ORDERS])
        tail = FilerTail(config, publish, recorder.load, recorder.save, recorder)
        running = asyncio.create_task(tail.run())
        await recorder.hears(lambda: recorder.position, "the tail has a position")
        for key in ("raw/orders/a.parquet", "raw/orders/b.parquet", "raw/readme.txt"):
            await landing.put(key)
        await recorder.hears(lambda: len(recorder.events) >= 3, "three events")
        assert await broker.pending(ORDERS) == (2, 0)
        assert await broker.pending(None) == (1, 0)
        [delivery, _] = await broker.fetch(ORDERS, 5, 5)
        head = await landing.head("raw/orders/a.parquet")
        assert KeyEvent.from_json(delivery.payload).identity() == head.identity()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    finally:
        await broker.close()
