"""NATS: the queue of key events, the feeds, and two small KV buckets. The only module that imports nats.

Every error of the client is classified here, once: `Unavailable` (wait and try again) or
`BrokerMisconfigured` (no waiting mends it).
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NoReturn, cast

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api
from nats.js import errors as js_errors
from nats.js.kv import KeyValue

from consumer.broker_config import (
    BUCKETS,
    BrokerConfig,
    Bucket,
    JsStream,
    bucket_name,
    js_streams,
    keys_stream,
)
from consumer.errors import BrokerMisconfigured, LotusError, Unavailable
from consumer.events import KeyEvent
from consumer.subjects import commit_subject, dead_subject, key_subject, stream_filter, subscription_name
from feeders.streams import StreamId

__all__ = ["Broker", "BrokerConfig", "Delivery"]

_CONSUMERS_A_PAGE = 256
_RECONNECT_WAIT_S = 1
_ANSWER_S = 0.5
_GAP_S = 0.05
_STORE_FAILED = 10077
_NAME_IN_USE = 10058
_NO_STORAGE = (10023, 10047)
_DENIED = ("permissions violation", "authorization violation")


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A claimed key event. One of `done`, `later` and `dead` ends the claim; each waits for the server.

    Attributes:
        payload: the event as it was sent, not yet validated.
        subject: where it waited; `consumer.subjects.parse_key_subject` reads it.
        num_delivered: 1 at first. An outage raises it as a broken file does, so it decides nothing.
        sequence: the position in the js_stream, the same at every delivery.
        published_at: when the server stored it.
    """

    payload: bytes
    subject: str
    num_delivered: int
    sequence: int
    published_at: datetime
    _broker: "Broker" = field(repr=False)
    _reply: str = field(repr=False)

    async def done(self) -> None:
        """Take the event out of the queue; it has its verdict."""
        await self._broker.settle(self._reply, b"+ACK")

    async def later(self, delay_s: float) -> None:
        """Give the event back, to be delivered again after a delay."""
        await self._broker.settle(self._reply, b'-NAK {"delay": %d}' % max(1, int(delay_s * 1e9)))

    async def dead(self) -> None:
        """Take the event out of the queue for good; a dead letter holds it now."""
        await self._broker.settle(self._reply, b"+TERM")

    async def working(self) -> None:
        """Renew the claim for another `ack_wait_s`."""
        await self._broker.settle(self._reply, b"+WPI")


class Broker:
    """A connection that comes back by itself, and what we do over it. Belongs to one event loop."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self._client = Client()
        self._js = self._client.jetstream()
        self._pulls: dict[str, _Pull] = {}
        self._kv: dict[Bucket, KeyValue] = {}
        self._renewal = asyncio.Lock()
        self._closing = False
        self._last_error = ""
        self._denied = ""

    @classmethod
    async def connect(cls, config: BrokerConfig) -> "Broker":
        """Connect, within the configured time.

        Raises:
            Unavailable: no server answered.
            BrokerMisconfigured: it refused our name or password.
        """
        broker = cls(config)
        await broker._open()
        return broker

    @property
    def is_connected(self) -> bool:
        """Say whether the server is there right now."""
        return self._client.is_connected

    @property
    def max_payload_bytes(self) -> int:
        """Return the largest message that the server takes."""
        return self._client.max_payload

    async def close(self) -> None:
        """Give back keys that came and were not asked for, send what is buffered, and close.

        Claims that were given out and not ended go back to the queue after `ack_wait_s`.
        """
        self._closing = True
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError):
                for pull in self._pulls.values():
                    await pull.give_back()
                await self._client.flush(timeout=2)
        await self._client.close()

    async def ensure(self) -> None:
        """Create the js_streams and KV buckets that are missing, and bring their limits up to the settings.

        Raises:
            BrokerMisconfigured: one exists and is not what we need, or can't be made.
            Unavailable: no answer.
        """
        async with self._request("set up js_streams"):
            for spec in js_streams(self.config):
                await self._ensure_js_stream(spec)
            for bucket in BUCKETS:
                await self._ensure_bucket(bucket)

    async def subscribe(self, stream_ids: Iterable[StreamId]) -> tuple[str, ...]:
        """Make one durable subscription for each stream, and one for keys of no stream.

        Returns:
            The names of subscriptions that belong to no stream of these: nobody reads their keys.
        """
        wanted = {subscription_name(stream_id): stream_id for stream_id in (*stream_ids, None)}
        name = keys_stream(self.config).name
        async with self._request("set up subscriptions"):
            for durable, stream_id in wanted.items():
                await self._js.add_consumer(
                    name,
                    api.ConsumerConfig(
                        durable_name=durable,
                        filter_subject=stream_filter(self.config.namespace, stream_id),
                        ack_policy=api.AckPolicy.EXPLICIT,
                        ack_wait=self.config.ack_wait_s,
                        max_deliver=-1,  # attempts are ours (design D10)
                        max_ack_pending=self.config.max_ack_pending,
                    ),
                )
            return tuple(sorted([found async for found in self._subscriptions(name) if found not in wanted]))

    async def publish_key(self, event: KeyEvent, stream_id: StreamId | None) -> bool:
        """Put a key event into the queue and wait until it is stored.

        Returns:
            False if this object version is already there, pending or in flight: that is as good.
        """
        subject = key_subject(self.config.namespace, stream_id, event.identity())
        async with self._request("publish a key event"):
            try:
                await self._js.publish(subject, event.to_json(), timeout=self.config.request_timeout_s)
            except js_errors.APIError as error:
                if error.err_code == _STORE_FAILED and "per subject" in (error.description or ""):
                    return False
                raise
        return True

    async def publish_dead(self, stream_id: StreamId | None, payload: bytes) -> None:
        """Announce a dead letter."""
        await self._publish(dead_subject(self.config.namespace, stream_id), payload)

    async def publish_commit(self, stream_id: StreamId, payload: bytes) -> None:
        """Announce a commit."""
        await self._publish(commit_subject(self.config.namespace, stream_id), payload)

    async def fetch(self, stream_id: StreamId | None, batch: int, timeout_s: float) -> list[Delivery]:
        """Claim up to `batch` key events of a stream; wait up to `timeout_s` for the first one, 0 not at all.

        `subscribe` has made the stream's subscription before. A cancelled fetch loses nothing: what it claimed
        comes with the next one, or after `ack_wait_s`.
        """
        async with self._request("fetch key events"):
            if not self._client.is_connected:
                raise nats.errors.ConnectionReconnectingError
            pull = await self._pull(subscription_name(stream_id))
            messages = await pull.fetch(min(batch, self.config.max_ack_pending), timeout_s)
        return [self._delivery(message) for message in messages]

    async def pending(self, stream_id: StreamId | None) -> tuple[int, int]:
        """Return how many key events of a stream wait, and how many are claimed."""
        async with self._request("count key events"):
            info = await self._js.consumer_info(keys_stream(self.config).name, subscription_name(stream_id))
        return info.num_pending or 0, info.num_ack_pending or 0

    async def settle(self, reply: str, verdict: bytes) -> None:
        """Send a claim's verdict and wait until the server has it; for `Delivery` only."""
        async with self._request("settle a claim"):
            await self._client.request(reply, verdict, timeout=self.config.request_timeout_s)

    async def kv_get(self, bucket: Bucket, key: str) -> bytes | None:
        """Return a value, or None."""
        async with self._request(f"read {bucket}"):
            try:
                entry = await (await self._bucket(bucket)).get(key)
            except js_errors.KeyNotFoundError:
                return None
        return entry.value or b""

    async def kv_put(self, bucket: Bucket, key: str, value: bytes) -> None:
        """Store a value."""
        async with self._request(f"write {bucket}"):
            await (await self._bucket(bucket)).put(key, value)

    async def kv_delete(self, bucket: Bucket, key: str) -> None:
        """Remove a key without a trace: markers of removed identities would fill the bucket."""
        name = bucket_name(self.config, bucket)
        async with self._request(f"remove a key of {bucket}"):
            await self._js.purge_stream(f"KV_{name}", subject=f"$KV.{name}.{key}")

    async def kv_keys(self, bucket: Bucket) -> list[str]:
        """Return the keys, sorted."""
        name = bucket_name(self.config, bucket)
        prefix = f"$KV.{name}."
        async with self._request(f"list {bucket}"):
            info = await self._js.stream_info(f"KV_{name}", subjects_filter=f"{prefix}>")
        return sorted(subject.removeprefix(prefix) for subject in info.state.subjects or {})

    async def _publish(self, subject: str, payload: bytes) -> None:
        async with self._request(f"publish on {subject}"):
            await self._js.publish(subject, payload, timeout=self.config.request_timeout_s)

    def _delivery(self, message: Msg) -> Delivery:
        about = message.metadata
        return Delivery(
            payload=message.data,
            subject=message.subject,
            num_delivered=about.num_delivered,
            sequence=about.sequence.stream,
            published_at=about.timestamp,
            _broker=self,
            _reply=message.reply,
        )

    async def _pull(self, durable: str) -> "_Pull":
        pull = self._pulls.get(durable)
        if pull is None:
            api_subject = f"$JS.API.CONSUMER.MSG.NEXT.{keys_stream(self.config).name}.{durable}"
            pull = self._pulls[durable] = _Pull(self._client, api_subject, kept_s=self.config.ack_wait_s)
        return pull

    async def _bucket(self, bucket: Bucket) -> KeyValue:
        handle = self._kv.get(bucket)
        if handle is None:
            handle = await self._js.key_value(bucket_name(self.config, bucket))
            self._kv[bucket] = handle
        return handle

    async def _subscriptions(self, js_stream: str) -> AsyncIterator[str]:
        offset = 0
        while True:
            page = await self._js.consumers_info(js_stream, offset=offset)
            for info in page:
                yield info.name
            offset += len(page)
            if len(page) < _CONSUMERS_A_PAGE:
                return

    async def _ensure_js_stream(self, spec: JsStream) -> None:
        try:
            found = (await self._js.stream_info(spec.name)).config
        except js_errors.NotFoundError:
            try:
                await self._js.add_stream(_as_config(spec, replicas=self.config.replicas))
            except js_errors.BadRequestError as error:
                if error.err_code != _NAME_IN_USE:
                    raise
            else:
                return
            found = (await self._js.stream_info(spec.name)).config  # another instance was faster
        _compare(spec, found)
        if (found.max_bytes, found.max_age or None) != (spec.max_bytes, spec.max_age_s):
            await self._js.update_stream(
                replace(found, max_bytes=spec.max_bytes, max_age=spec.max_age_s or 0)
            )

    async def _ensure_bucket(self, bucket: Bucket) -> None:
        name = bucket_name(self.config, bucket)
        wanted = self.config.bucket_max_bytes
        try:
            found = (await self._js.stream_info(f"KV_{name}")).config
        except js_errors.NotFoundError:
            config = api.KeyValueConfig(
                bucket=name, max_bytes=wanted, storage=api.StorageType.FILE, replicas=self.config.replicas
            )
            await self._js.create_key_value(config)
        else:
            if found.max_bytes != wanted:
                await self._js.update_stream(replace(found, max_bytes=wanted))

    async def _open(self) -> None:
        """Connect the client that we hold, or close it and raise."""
        config = self.config
        self._denied = self._last_error = ""
        connecting = asyncio.create_task(
            self._client.connect(
                servers=config.url.split(","),
                user=config.user,
                password=config.password,
                name=config.client_name,
                error_cb=self._on_error,
                max_reconnect_attempts=-1,  # the default gives up after 60
                reconnect_time_wait=_RECONNECT_WAIT_S,
                connect_timeout=2,
                ping_interval=5,  # a silent cut is noticed within 15 s
                max_outstanding_pings=2,
            )
        )
        try:
            async with asyncio.timeout(config.connect_timeout_s):
                while not connecting.done() and not self._denied:
                    await asyncio.wait({connecting}, timeout=0.05)
                if not self._denied:
                    await connecting
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._raise_classified("connect", error)
        finally:
            if not self._client.is_connected:
                connecting.cancel()
                await asyncio.wait({connecting})
                await self._client.close()
        if self._denied:
            self._raise_classified("connect", nats.errors.AuthorizationError())

    async def _reopen(self) -> None:
        """Start again with a new client: some of the server's errors close nats-py's for good."""
        async with self._renewal:
            if self._closing:
                raise Unavailable("nats", "the connection is closed")
            if self._client.is_closed:
                self._client = Client()
                self._js = self._client.jetstream()
                self._pulls.clear()
                self._kv.clear()
                await self._open()

    async def _on_error(self, error: Exception) -> None:
        self._last_error = str(error) or type(error).__name__
        if any(word in self._last_error.lower() for word in _DENIED):
            self._denied = self._last_error

    @contextlib.asynccontextmanager
    async def _request(self, what: str) -> AsyncGenerator[None]:
        """Classify every error of the client in the block."""
        try:
            if self._client.is_closed:
                await self._reopen()
            yield
        except LotusError:
            raise
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._raise_classified(what, error)

    def _raise_classified(self, what: str, error: Exception) -> NoReturn:
        denied, self._denied = self._denied, ""
        if denied:
            raise BrokerMisconfigured(
                f"NATS refuses us ({what}): {denied}",
                hint="set LOTUS_NATS_USER and LOTUS_NATS_PASSWORD to a user that may use "
                f"{self.config.namespace}.>, $JS.API.>, $JS.ACK.>, $KV.> and _INBOX.>",
            ) from error
        if isinstance(error, nats.errors.MaxPayloadError):
            raise BrokerMisconfigured(
                f"{what}: larger than the server's max_payload of {self.max_payload_bytes:,} bytes",
                hint="set max_payload: 8MB in the NATS server's configuration",
            ) from error
        if isinstance(error, js_errors.APIError):
            text = f"{what}: {error.description} (code {error.err_code})"
            if error.err_code in _NO_STORAGE:
                raise BrokerMisconfigured(
                    text, hint="raise the server's max_file_store, or lower our js_streams' max_bytes"
                ) from error
            if isinstance(error, js_errors.BadRequestError):
                raise BrokerMisconfigured(
                    text,
                    hint="look at what else uses these names on the server, or set another LOTUS_NAMESPACE",
                ) from error
            raise Unavailable("nats", text) from error
        if isinstance(error, js_errors.NoStreamResponseError | nats.errors.NoRespondersError):
            text = (
                "nothing answers there: JetStream starts or is off, or the js_stream or subscription is gone"
            )
        else:
            text = self._last_error if isinstance(error, TimeoutError) else ""
            text = text or str(error) or f"no answer in {self.config.request_timeout_s:g} s"
        raise Unavailable("nats", f"{what}: {text}") from error


class _Pull:
    """Requests for the messages of one subscription, one at a time.

    nats-py's own `fetch` takes the end of an earlier request for that of the present one, and then stands still
    for its whole timeout while messages wait (measured: 5 s, once in some hundred fetches). Here each request has
    a reply subject of its own, so that its end is told from others'.
    """

    def __init__(self, client: Client, api_subject: str, *, kept_s: float) -> None:
        self._client = client
        self._api_subject = api_subject
        self._kept_s = kept_s
        self._inbox = client.new_inbox()
        self._arrived: asyncio.Queue[tuple[float, Msg]] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._requests = 0
        self._subscription: Subscription | None = None

    async def fetch(self, batch: int, timeout_s: float) -> list[Msg]:
        async with self._turn:
            if self._subscription is None:
                self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._keep)
            # First what is there. Only if that is nothing, wait for one message and see what came with it.
            found = self._late(batch) or await self._ask(batch, expires_s=None)
            if not found and timeout_s > 0:
                found = await self._ask(1, expires_s=timeout_s)
                if found and batch > 1:
                    found += await self._ask(batch - 1, expires_s=None)
            return found

    async def give_back(self) -> None:
        """End the subscription, and the claims of messages that nobody fetched: they came in a cancelled fetch."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.drain()
        while not self._arrived.empty():
            arrived_at, message = self._arrived.get_nowait()
            if _status(message) is None and time.monotonic() - arrived_at < self._kept_s:
                await self._client.publish(message.reply, b"-NAK")

    async def _keep(self, message: Msg) -> None:
        self._arrived.put_nowait((time.monotonic(), message))

    def _late(self, batch: int) -> list[Msg]:
        """Return messages that came after their fetch was over, unless their claim has ended since."""
        found: list[Msg] = []
        while len(found) < batch and not self._arrived.empty():
            arrived_at, message = self._arrived.get_nowait()
            if _status(message) is None and time.monotonic() - arrived_at < self._kept_s:
                found.append(message)
        return found

    async def _ask(self, batch: int, *, expires_s: float | None) -> list[Msg]:
        """Request messages: those that wait already, or the first ones that come within `expires_s`."""
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        mode = {"no_wait": True} if expires_s is None else {"expires": int(expires_s * 1e9)}
        await self._client.publish(
            self._api_subject, json.dumps({"batch": batch, **mode}).encode(), reply=reply
        )
        found: list[Msg] = []
        try:
            # A request that meets the limit of open claims gets no end from the server, so a gap is one too.
            async with asyncio.timeout((expires_s or 0) + _ANSWER_S) as deadline:
                while len(found) < batch:
                    _, message = await self._arrived.get()
                    status = _status(message)
                    if status is None:
                        found.append(message)
                        deadline.reschedule(asyncio.get_running_loop().time() + _GAP_S)
                    elif message.subject == reply and status != "100":
                        _check_end(status)
                        break
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            for message in found:
                self._arrived.put_nowait((time.monotonic(), message))
            raise
        return found


def _status(message: Msg) -> str | None:
    """Return the code of a message that is a word of the server about a request, None for a real message."""
    return message.headers.get("Status") if message.headers and not message.reply else None


def _check_end(status: str) -> None:
    """Raise unless the code ends a request in the usual way: none left, time is up, or the server goes."""
    if status == "503":
        raise nats.errors.NoRespondersError


def _as_config(spec: JsStream, *, replicas: int) -> api.StreamConfig:
    return api.StreamConfig(
        name=spec.name,
        subjects=list(spec.subjects),
        retention=api.RetentionPolicy(spec.retention),
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy(spec.discard),
        discard_new_per_subject=spec.discard_new_per_subject,
        max_msgs_per_subject=spec.max_msgs_per_subject,
        max_bytes=spec.max_bytes,
        max_age=spec.max_age_s,
        num_replicas=replicas,
    )


def _compare(spec: JsStream, found: api.StreamConfig) -> None:
    """Refuse a js_stream of our name that works in another way than ours."""
    wanted = _as_config(spec, replicas=1)
    for name in (
        "subjects",
        "retention",
        "storage",
        "discard",
        "discard_new_per_subject",
        "max_msgs_per_subject",
    ):
        expected, there = (_plain(getattr(config, name)) for config in (wanted, found))
        if expected != there:
            raise BrokerMisconfigured(
                f"js_stream {spec.name}: {name} is {there}, expected {expected}",
                hint=f"remove it (`nats stream rm {spec.name}`; a sweep finds its keys again), "
                "or set another LOTUS_NAMESPACE",
            )


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(str(item) for item in cast("list[object]", value)))
    return str(value.value if isinstance(value, Enum) else value)
