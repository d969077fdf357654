"""What we do over NATS: key events, feeds, and two small KV buckets."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js import errors as js_errors
from nats.js.kv import KeyValue

from consumer.broker import hints, micro, setup
from consumer.broker.config import (
    BrokerConfig,
    Bucket,
    bucket_name,
    dead_stream,
    events_stream,
    keys_stream,
)
from consumer.broker.connection import Connection
from consumer.broker.delivery import Delivery, Settles
from consumer.broker.micro import Endpoint, Reply
from consumer.broker.pull import Pull
from consumer.broker.subject_pages import list_subjects
from consumer.broker.subscription_pages import list_subscriptions
from consumer.errors import NoResponder, Unavailable
from consumer.events import Identity, KeyEvent
from consumer.subjects import (
    Lane,
    Queued,
    commit_subject,
    dead_subject,
    key_subject,
    queue_filters,
    stream_filter,
    subscription_name,
)
from feeders.streams import StreamId

_STORE_FAILED = 10077
_NO_MESSAGE = 10037


class Broker:
    """A connection that comes back by itself, and what we do over it. Belongs to one event loop."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self._pulls: dict[str, Pull] = {}
        self._kv: dict[Bucket, KeyValue] = {}
        self._queue_made_at: datetime | None = None
        self._connection = Connection(config, self._forget)

    @classmethod
    async def connect(cls, config: BrokerConfig) -> "Broker":
        """Connect, within the configured time.

        Raises:
            Unavailable: no server answered.
            BrokerMisconfigured: it refused our name or password.
        """
        broker = cls(config)
        await broker._connection.open()
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
        self._connection.closing()
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError):
                for pull in self._pulls.values():
                    await pull.give_back()
                await self._client.flush(timeout=2)
        await self._client.close()

    async def ensure(self) -> bool:
        """Create the js_streams and KV buckets that are missing, and bring their limits up to the settings.

        Returns:
            Whether the queue of key events had to be created: whatever waited in an earlier one is lost.

        Raises:
            BrokerMisconfigured: one exists and is not what we need, or can't be made.
            Unavailable: no answer.
        """
        async with self._request("set up js_streams"):
            made = await setup.ensure(self._js, self.config)
        await self.queue_made_at()
        return made

    async def queue_made_at(self) -> datetime | None:
        """Return when the queue of key events was made, None if there is none: another time is another queue."""
        async with self._request("look at the queue"):
            try:
                self._queue_made_at = (await self._js.stream_info(keys_stream(self.config).name)).created
            except js_errors.NotFoundError:
                return None
        return self._queue_made_at

    async def subscribe(self, stream_ids: Iterable[StreamId]) -> tuple[str, ...]:
        """Make one durable subscription for each stream, one each for keys of no stream, replays and notifications.

        Returns:
            The names of subscriptions that belong to no stream of these: nobody reads their keys.
        """
        async with self._request("set up subscriptions"):
            made = await setup.subscribe(self._js, self.config, stream_ids)
            return tuple(sorted((await list_subscriptions(self._client, self.config)).keys() - made))

    async def publish_key(self, event: KeyEvent, stream_id: StreamId | None) -> bool:
        """Put a key event into the queue and wait until it is stored.

        Returns:
            False if this object version is already there, pending or in flight: that is as good.
        """
        subject = key_subject(
            self.config.namespace, stream_id, event.identity(), is_replay=event.replay is not None
        )
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

    async def fetch(self, of: Queued, batch: int, timeout_s: float) -> list[Delivery]:
        """Claim up to `batch` key events of a stream; wait up to `timeout_s` for the first one, 0 not at all.

        `subscribe` has made the subscription before. A cancelled fetch loses nothing: what it claimed
        comes with the next one, or after `ack_wait_s`.
        """
        async with self._request("fetch key events"):
            if not self._client.is_connected:
                raise nats.errors.ConnectionReconnectingError
            pull = await self._pull(keys_stream(self.config).name, subscription_name(of))
            messages = await pull.fetch(batch, timeout_s)
        return [self._delivery(message, self) for message in messages]

    async def fetch_notifications(self, batch: int, timeout_s: float) -> list[Delivery]:
        """Claim up to `batch` raw notifications of whoever publishes on `{ns}.events.>`; as `fetch` does."""
        async with self._request("fetch notifications"):
            if not self._client.is_connected:
                raise nats.errors.ConnectionReconnectingError
            pull = await self._pull(events_stream(self.config).name, setup.EVENTS)
            messages = await pull.fetch(batch, timeout_s)
        return [self._delivery(message, _AnyQueue(self)) for message in messages]

    async def replays(self) -> set[Identity]:
        """Return the identities of replays that wait or are in flight; of more than 100,000 the first ones."""
        subjects = stream_filter(self.config.namespace, Lane.REPLAYS)
        async with self._request("list replays"):
            info = await self._js.stream_info(keys_stream(self.config).name, subjects_filter=subjects)
        return {Identity(subject.rpartition(".")[2]) for subject in info.state.subjects or {}}

    async def queued(self, of: StreamId | None) -> AsyncIterator[list[tuple[str, Identity]]]:
        """Give the subjects of what waits or is in flight, each with its identity, in pages of the server's.

        Of one stream, its replays and keys of no stream; or of all.

        Raises:
            Unavailable: no answer, or there is no queue.
        """
        namespace = self.config.namespace
        filters = [f"{namespace}.keys.>"] if of is None else queue_filters(namespace, of)
        for subjects in filters:
            offset = 0
            while True:
                async with self._request("list key events"):
                    page = await list_subjects(self._client, self.config, subjects, offset=offset)
                yield [(subject, Identity(subject.rpartition(".")[2])) for subject in page.subjects]
                offset += len(page.subjects)
                if not page.subjects or offset >= page.total:
                    break

    async def queued_payload(self, subject: str) -> bytes | None:
        """Return the payload of the message with this subject in the queue; None if it is not there any more."""
        async with self._request("look at a key event"):
            try:
                message = await self._js.get_last_msg(keys_stream(self.config).name, subject)
            except js_errors.NotFoundError as error:
                if error.err_code != _NO_MESSAGE:
                    raise
                return None
        return message.data or b""

    async def pending(self, of: Queued) -> tuple[int, int]:
        """Return how many key events of a stream wait, and how many are claimed."""
        async with self._request("count key events"):
            info = await self._js.consumer_info(keys_stream(self.config).name, subscription_name(of))
        return info.num_pending or 0, info.num_ack_pending or 0

    async def backlog(self, ofs: Iterable[Queued]) -> dict[Queued, tuple[int, int] | None]:
        """Return how many key events of each wait, and how many are claimed: one request for 256 of them.

        What has no subscription any more is left out; None says that nothing is known of it right now.

        Raises:
            Unavailable: no answer, or there is no queue.
        """
        async with self._request("count key events"):
            found = await list_subscriptions(self._client, self.config)
        names = ((of, subscription_name(of)) for of in ofs)
        return {of: found[name] for of, name in names if name in found}

    async def listen(
        self, ofs: Iterable[Queued], *, heard: hints.Heard, listening: Callable[[], None]
    ) -> None:
        """Tell of each key event that the server has just stored, until cancelled; some may be missed.

        Args:
            ofs: whose.
            heard: told whose it is, and its position in the js_stream.
            listening: told each time that what is stored from now on is heard, and nothing before it may be.

        Raises:
            Unavailable: the server does not answer; try again.
            BrokerMisconfigured: we may not.
        """
        ofs = tuple(ofs)
        while True:
            async with self._request("listen for key events"):
                closed = self._connection.closed
                subscription = await hints.subscribe(self._client, self.config.namespace, ofs, heard)
            try:
                async with self._request("listen for key events"):
                    await self._client.flush()
                    self._connection.require_heard("listen for key events", subscription.subject)
                listening()
                await closed.wait()
            finally:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await subscription.unsubscribe()

    async def oldest(self, of: Queued) -> datetime | None:
        """Return since when the key event waits, or is in work, that was put into the queue first; None if none is."""
        subjects = stream_filter(self.config.namespace, of)
        async with self._request("look for the oldest key event"):
            try:
                found = await self._js.get_msg(
                    keys_stream(self.config).name, seq=1, subject=subjects, next=True
                )
            except js_errors.NotFoundError as error:
                if error.err_code != _NO_MESSAGE:
                    raise
                return None
        return found.time

    async def settle(self, reply: str, verdict: bytes, *, claimed_of: datetime) -> None:
        """Send a claim's verdict and wait until the server has it; for `Delivery` only.

        Raises:
            Unavailable: no answer, or the queue is a new one: its positions are given out again, and the verdict
                would hit another key's message.
        """
        if self._queue_made_at is not None and claimed_of < self._queue_made_at:
            raise Unavailable(
                "nats", "the queue was made anew since this key was claimed: a sweep brings it again"
            )
        await self.settle_in_any(reply, verdict)

    async def settle_in_any(self, reply: str, verdict: bytes) -> None:
        """Send a claim's verdict, whichever queue the claim is of; for `Delivery` only."""
        async with self._request("settle a claim"):
            await self._client.request(reply, verdict, timeout=self.config.request_timeout_s)

    async def serve(self, endpoints: Sequence[Endpoint], *, version: str) -> None:
        """Answer requests until cancelled, over every connection that replaces a lost one.

        Raises:
            Unavailable: the server does not answer; try again.
        """
        while True:
            async with self._request("offer services"):
                closed = self._connection.closed
                service = await micro.start(self._client, self.config, endpoints, version=version)
            try:
                await closed.wait()
            finally:
                await micro.stop(service)

    async def ask(self, subject: str, payload: bytes, *, timeout_s: float) -> Reply:
        """Send a request and return the answer, which may be a refusal.

        Raises:
            NoResponder: nobody answers on this subject.
            Unavailable: no answer in time.
        """
        async with self._request(f"ask {subject}"):
            try:
                message = await self._client.request(subject, payload, timeout=timeout_s)
            except nats.errors.NoRespondersError as error:
                raise NoResponder(f"nobody answers on {subject}") from error
            except nats.errors.TimeoutError as error:
                raise Unavailable("nats", f"no answer on {subject} in {timeout_s:g} s") from error
        return micro.reply_of(message.data, message.headers)

    async def dead_feed(
        self, stream_id: StreamId | None, takes: Callable[[bytes], bool], *, most: int
    ) -> None:
        """Give what was announced of a stream's dead letters, the newest first, among the feed's last `most` messages.

        `takes` gets one after the other, and says whether it wants more.
        """
        name, subject = dead_stream(self.config), dead_subject(self.config.namespace, stream_id)
        async with self._request("read the feed of dead letters"):
            state = (await self._js.stream_info(name)).state
            for sequence in range(state.last_seq, max(state.first_seq, state.last_seq - most + 1) - 1, -1):
                with contextlib.suppress(js_errors.NotFoundError):
                    message = await self._js.get_msg(name, sequence)
                    if message.subject == subject and not takes(message.data or b""):
                        return

    async def kv_get(self, bucket: Bucket, key: str) -> bytes | None:
        """Return a value, or None."""
        async with self._request(f"read {bucket}"):
            try:
                entry = await (await self._bucket(bucket)).get(key)
            except js_errors.KeyNotFoundError:
                return None
        return entry.value or b""

    async def kv_read(self, bucket: Bucket, key: str) -> tuple[bytes | None, int]:
        """Return a value and its revision; None and 0 if there is none."""
        async with self._request(f"read {bucket}"):
            try:
                entry = await (await self._bucket(bucket)).get(key)
            except js_errors.KeyNotFoundError:
                return None, 0
        return entry.value or b"", entry.revision or 0

    async def kv_replace(self, bucket: Bucket, key: str, value: bytes, *, revision: int) -> int | None:
        """Store a value over that revision, 0 for none, and return its own; None if another one is there."""
        async with self._request(f"write {bucket}"):
            try:
                return await (await self._bucket(bucket)).update(key, value, last=revision)
            except js_errors.KeyWrongLastSequenceError:
                return None

    async def has_key(self, identity: Identity) -> bool:
        """Say whether a key event with this identity waits or is in flight, of whichever stream."""
        for tokens in ("*.*", "*.*.*"):  # a stream's, and a replay's, which has one more in front
            async with self._request("look for a key event"):
                try:
                    await self._js.get_last_msg(
                        keys_stream(self.config).name, f"{self.config.namespace}.keys.{tokens}.{identity}"
                    )
                except js_errors.NotFoundError as error:
                    if error.err_code != _NO_MESSAGE:
                        raise
                else:
                    return True
        return False

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

    def _delivery(self, message: Msg, settles: Settles) -> Delivery:
        about = message.metadata
        return Delivery(
            payload=message.data,
            subject=message.subject,
            num_delivered=about.num_delivered,
            sequence=about.sequence.stream,
            published_at=about.timestamp,
            num_pending=about.num_pending,
            _settles=settles,
            _reply=message.reply,
            headers=message.headers,
        )

    async def _pull(self, js_stream: str, durable: str) -> Pull:
        api_subject = f"$JS.API.CONSUMER.MSG.NEXT.{js_stream}.{durable}"
        pull = self._pulls.get(api_subject)
        if pull is None:
            # Whoever gets a late one renews its claim at a quarter of ack_wait from then on: in time.
            pull = Pull(self._client, api_subject, kept_s=self.config.ack_wait_s / 2)
            self._pulls[api_subject] = pull
        return pull

    async def _bucket(self, bucket: Bucket) -> KeyValue:
        handle = self._kv.get(bucket)
        if handle is None:
            handle = await self._js.key_value(bucket_name(self.config, bucket))
            self._kv[bucket] = handle
        return handle

    @property
    def _client(self) -> Client:
        return self._connection.client

    @property
    def _js(self) -> JetStreamContext:
        return self._connection.js

    def _request(self, what: str) -> contextlib.AbstractAsyncContextManager[None]:
        return self._connection.request(what)

    def _forget(self) -> None:
        """Drop what belonged to a client that is closed."""
        self._pulls.clear()
        self._kv.clear()


class _AnyQueue:
    """Settles claims of a queue that is not the one of keys: when that was made says nothing of them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def settle(self, reply: str, verdict: bytes, *, claimed_of: datetime) -> None:
        """Send a verdict and wait until the server has it."""
        await self._broker.settle_in_any(reply, verdict)
