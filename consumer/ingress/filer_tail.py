"""Follow the filer's metadata log over gRPC: the default way in.

What was received is published even if the filer dies meanwhile, because a killed filer forgets the last minute of
its log. The position is saved only up to where every event is stored by the queue; what repeats after a restart is
refused there by its identity. What the filer itself forgot while nobody followed, a sweep brings.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar, cast

import grpc
import grpc.aio

from consumer.errors import Misconfigured, Unavailable, Undecodable
from consumer.events import KeyEvent
from consumer.ingress.filer_pb2 import SubscribeMetadataRequest, SubscribeMetadataResponse
from consumer.ingress.seaweedfs import BUCKETS, decode_logged
from consumer.tasks import end, run_together

T = TypeVar("T")

FOUND_BY = "filer_tail"
# How the filer begins the reason when its log's files are damaged or gone; it names none of it otherwise.
_UNREADABLE = "persisted log"
# How our own reason begins when a filer stopped talking; it may have been killed since.
_SILENT = "not a word for"
_METHOD = "/filer_pb.SeaweedFiler/SubscribeMetadata"
_RESPONSE_BYTES_MAX = 64 * 1024 * 1024
_NS = 1_000_000_000
# Of an idle log only this much is read again: the filer keeps a minute in memory, and its peers may lag.
_IDLE_MARGIN_NS = 60 * _NS
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _RESPONSE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel waits out the old one's backoff
)


@dataclass(frozen=True, kw_only=True)
class FilerTls:
    """Files for mutual TLS, read again at each connect."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    server_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class FilerTailConfig:
    """What to follow and how.

    Attributes:
        address: host and gRPC port of the filer.
        bucket: the landing bucket.
        prefix: the landing prefix; objects elsewhere in the bucket are none of ours. Empty: all of it.
        client_name: shown in the filer's log and metrics.
        overlap_s: how much is read again at each connect; events may be a little out of order.
        silence_s: how long a connected filer may say nothing; it has a word every few seconds.
        unreadable_s: how long a filer may say that it can't read its log from our position on; then we give that
            position up.
        max_in_flight: events that are being published at a time.
        backoff_max_s: the longest wait between two attempts.
    """

    address: str
    bucket: str
    prefix: str
    client_name: str = "lotus-lake"
    tls: FilerTls | None = None
    overlap_s: float = 2.0
    silence_s: float = 60.0
    unreadable_s: float = 60.0
    save_interval_s: float = 1.0
    max_in_flight: int = 256
    backoff_max_s: float = 15.0

    @property
    def key_prefix(self) -> str:
        """Return what our keys begin with."""
        prefix = self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""


class TailObserver(Protocol):
    """Hears what the tail does, for metrics and logs. Must not block or raise."""

    def connected(self) -> None:
        """The filer answered."""

    def disconnected(self, reason: str) -> None:
        """The filer is gone or was never there; called at each attempt."""

    def published(self, event: KeyEvent, *, is_new: bool, delay_s: float) -> None:
        """An event is in the queue, `delay_s` after the filer logged it."""

    def undecodable(self, error: Undecodable) -> None:
        """A record of the log was not understood; only the sweep can find what it was about."""

    def position_lost(self) -> None:
        """There is no saved position: what happened until now is not read from the log."""

    def returned(self) -> None:
        """The filer answers again after failed attempts, or silence: what it did not tell us it may have forgotten."""

    def log_lost(self, reason: str) -> None:
        """The filer can't read its log from our position on: what happened until now is skipped."""


class _Silence:
    def connected(self) -> None: ...
    def disconnected(self, reason: str) -> None: ...
    def published(self, event: KeyEvent, *, is_new: bool, delay_s: float) -> None: ...
    def undecodable(self, error: Undecodable) -> None: ...
    def position_lost(self) -> None: ...
    def returned(self) -> None: ...
    def log_lost(self, reason: str) -> None: ...


class FilerTail:
    """Publishes the key events of one bucket and prefix, from the saved position on, until cancelled."""

    def __init__(
        self,
        config: FilerTailConfig,
        publish: Callable[[KeyEvent], Awaitable[bool]],
        load_position: Callable[[], Awaitable[int | None]],
        save_position: Callable[[int], Awaitable[None]],
        observe: TailObserver | None = None,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            config: what to follow.
            publish: routes and stores one event; False if it is there already.
            load_position: returns the saved position in nanoseconds since 1970, None at the first start.
            save_position: stores it.
            observe: hears what happens.
        """
        self._config = config
        self._publish = publish
        self._load_position = load_position
        self._save_position = save_position
        self._observe = observe or _Silence()
        self._client_id = secrets.randbelow(2**31 - 1) + 1
        self._epoch = 0
        self._received_ns = 0
        self._seen_ns = 0
        self._stored_ns = 0
        self._saved_ns = 0
        self._caught_up_at: datetime | None = None
        self._stores: set[asyncio.Task[None]] = set()
        # In the order of the log; its bound is the back-pressure on the filer.
        self._window: asyncio.Queue[tuple[int, list[asyncio.Task[None]]]] = asyncio.Queue(
            config.max_in_flight
        )

    @property
    def caught_up_at(self) -> datetime | None:
        """Return when the filer last said that there was nothing more; None if it never did."""
        return self._caught_up_at

    @property
    def lag_s(self) -> float | None:
        """Return the age of the newest word of the filer, event or not; it grows while nothing is heard."""
        return max(0.0, time.time() - self._seen_ns / _NS) if self._seen_ns else None

    async def run(self) -> NoReturn:
        """Follow until cancelled.

        Raises:
            Misconfigured: the TLS files can't be read, or `publish` says that NATS is wrong.
        """
        await self._find_position()
        try:
            await run_together([self._confirm(), self._save(), self._reconnect_for_ever()])
        finally:
            await end(self._stores)
        raise AssertionError("none of the three returns")

    async def _reconnect_for_ever(self) -> NoReturn:
        attempt = 0
        unreadable_since: float | None = None
        is_return = False
        while True:
            before = self._seen_ns
            reason = await self._follow(is_return=is_return)
            self._observe.disconnected(reason)
            attempt = 0 if self._seen_ns > before else attempt + 1
            is_return = self._seen_ns > 0 and (attempt > 0 or reason.startswith(_SILENT))
            now = asyncio.get_running_loop().time()
            if attempt == 0 or _UNREADABLE not in reason:
                unreadable_since = None
            elif unreadable_since is None:
                unreadable_since = now
            elif now - unreadable_since >= self._config.unreadable_s:
                unreadable_since = None
                self._skip_to_now(reason)
            await asyncio.sleep(_backoff_s(attempt, self._config.backoff_max_s))

    def _skip_to_now(self, reason: str) -> None:
        """Gives the position up: to ask for it again and again would be to hear nothing for ever."""
        self._received_ns = max(self._received_ns, time.time_ns())
        self._observe.log_lost(reason)

    async def _find_position(self) -> None:
        position = await _until_available(self._load_position, self._config.backoff_max_s)
        if position is None:
            # What was there before is the sweep's. Saved first, so that a restart does not skip anything.
            position = time.time_ns()
            await _until_available(partial(self._save_position, position), self._config.backoff_max_s)
            self._observe.position_lost()
        # A clock that was set back must not leave us waiting for the future.
        self._received_ns = self._stored_ns = self._saved_ns = min(position, time.time_ns())

    async def _follow(self, *, is_return: bool) -> str:
        """Read the log over one connection; return why it ended."""
        self._epoch += 1
        request = SubscribeMetadataRequest(
            client_name=self._config.client_name,
            # Not path_prefixes: the filer takes those besides this one, and the empty one matches all.
            path_prefix=f"{BUCKETS}{self._config.bucket}/",
            since_ns=self._received_ns - int(self._config.overlap_s * _NS),
            client_id=self._client_id,
            client_epoch=self._epoch,
            client_supports_batching=True,
            client_supports_idle_heartbeat=True,
        )
        try:
            async with open_channel(self._config) as channel:
                call = channel.unary_stream(
                    _METHOD,
                    request_serializer=SubscribeMetadataRequest.SerializeToString,
                    response_deserializer=SubscribeMetadataResponse.FromString,
                )(request)
                await self._read(cast("AsyncIterable[SubscribeMetadataResponse]", call), is_return=is_return)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except TimeoutError:
            return f"{_SILENT} {self._config.silence_s:g} s"
        return "the filer ended the stream"

    async def _read(self, responses: AsyncIterable[SubscribeMetadataResponse], *, is_return: bool) -> None:
        is_first = True
        async with asyncio.timeout(self._config.silence_s) as silence:
            async for response in responses:
                if is_first:
                    self._observe.connected()
                    if is_return:
                        self._observe.returned()
                    is_first = False
                # Waiting for NATS is not the filer's silence.
                silence.reschedule(None)
                for record in (response, *response.events):
                    await self._take(record)
                silence.reschedule(asyncio.get_running_loop().time() + self._config.silence_s)

    async def _take(self, record: SubscribeMetadataResponse) -> None:
        if not record.ts_ns:
            return  # how far the filer's log is on its disk
        self._seen_ns = max(self._seen_ns, record.ts_ns)
        if not record.event_notification:
            # A heartbeat says that all was sent; it does not prove that a peer's log is as far.
            if not record.HasField("event_notification"):
                self._caught_up_at = datetime.now(UTC)
            await self._advance(record.ts_ns - _IDLE_MARGIN_NS, [])
            return
        try:
            events = decode_logged(
                record.event_notification,
                directory=record.directory,
                found_by=FOUND_BY,
                now=datetime.now(UTC),
            )
        except Undecodable as error:
            self._observe.undecodable(error)
            events = ()
        await self._advance(
            record.ts_ns,
            [
                self._start_store(event, record.ts_ns)
                for event in events
                if event.bucket == self._config.bucket and event.key.startswith(self._config.key_prefix)
            ],
        )

    async def _advance(self, ts_ns: int, tasks: list[asyncio.Task[None]]) -> None:
        self._received_ns = max(self._received_ns, ts_ns)
        await self._window.put((ts_ns, tasks))

    def _start_store(self, event: KeyEvent, ts_ns: int) -> asyncio.Task[None]:
        """Begins to publish an event; `_confirm` waits for it and raises what it raised."""
        task = asyncio.create_task(self._store(event, ts_ns))
        self._stores.add(task)
        task.add_done_callback(self._stores.discard)
        return task

    async def _store(self, event: KeyEvent, ts_ns: int) -> None:
        is_new = await _until_available(partial(self._publish, event), self._config.backoff_max_s)
        delay_s = max(0.0, time.time() - ts_ns / _NS)
        self._observe.published(event, is_new=is_new, delay_s=delay_s)

    async def _confirm(self) -> NoReturn:
        """Move the stored position over events that are stored, in the order of the log."""
        while True:
            ts_ns, tasks = await self._window.get()
            for task in tasks:
                await task
            self._stored_ns = max(self._stored_ns, ts_ns)

    async def _save(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._config.save_interval_s)
            position = self._stored_ns
            if position > self._saved_ns:
                await _until_available(partial(self._save_position, position), self._config.backoff_max_s)
                self._saved_ns = position


def open_channel(config: FilerTailConfig) -> grpc.aio.Channel:
    """Opens the filer's gRPC, with mutual TLS if the configuration has it.

    Raises:
        Misconfigured: a TLS file can't be read.
    """
    tls = config.tls
    if tls is None:
        return grpc.aio.insecure_channel(config.address, options=_OPTIONS)
    try:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=tls.ca_file.read_bytes(),
            private_key=tls.key_file.read_bytes(),
            certificate_chain=tls.cert_file.read_bytes(),
        )
    except OSError as error:
        raise Misconfigured(
            f"the filer's TLS files: {error}", hint="mend the paths of the CA, certificate and key files"
        ) from error
    override = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    return grpc.aio.secure_channel(config.address, credentials, options=(*_OPTIONS, *override))


async def _until_available(step: Callable[[], Awaitable[T]], backoff_max_s: float) -> T:
    attempt = 0
    while True:
        try:
            return await step()
        except Unavailable:
            await asyncio.sleep(_backoff_s(attempt, backoff_max_s))
            attempt += 1


def _backoff_s(attempt: int, most_s: float) -> float:
    """Return a wait that doubles up to a limit, with jitter, so that many clients don't come at once."""
    return min(most_s, 0.1 * 2 ** min(attempt, 20)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
