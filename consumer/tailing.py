"""The filer tail of one term: its configuration, its position in KV, and what is told of it."""

from collections.abc import Awaitable, Callable

import structlog

from consumer.broker import Broker
from consumer.errors import Misconfigured, Undecodable
from consumer.events import KeyEvent
from consumer.ingress.filer_tail import FilerTail, FilerTailConfig, FilerTls
from consumer.metrics import Metrics
from consumer.servers import Servers
from consumer.settings import Settings
from consumer.sweeping import Reason
from feeders import fault
from feeders.streams import StreamId, StreamTable

log = structlog.get_logger()

POSITION = "filer_tail"


class TailReport:
    """Turns what the tail tells into metrics and log lines: one line when its state changes."""

    def __init__(self, metrics: Metrics, gap: Callable[[Reason, str | None], None]) -> None:
        self._metrics = metrics
        self._gap = gap
        self._is_connected: bool | None = None
        self._servers = Servers(metrics)

    def connected(self) -> None:
        """The filer answered."""
        if not self._is_connected:
            log.info("filer tail connected")
        self._is_connected = True
        self._metrics.tail_connected.set(1)
        self._servers.answered("filer")

    def disconnected(self, reason: str) -> None:
        """The filer is gone, or does not answer yet."""
        if self._is_connected is not False:
            log.warning("filer tail disconnected", reason=reason)
        self._is_connected = False
        self._metrics.tail_connected.set(0)
        self._servers.silent("filer")

    def published(self, event: KeyEvent, *, is_new: bool, delay_s: float) -> None:
        """An event is in the queue."""
        self._metrics.notify_seconds.observe(delay_s)

    def undecodable(self, error: Undecodable) -> None:
        """A record was not understood; the sweep finds what it was about."""
        log.warning("undecodable filer event", reason=error.reason)
        self._metrics.undecodable.labels(way="filer_tail").inc()
        self._gap(Reason.UNDECODABLE, error.reason)

    def position_lost(self) -> None:
        """The position is gone from KV, or nobody ever saved one."""
        self._gap(Reason.POSITION_LOST, "the tail of the filer's log begins now: there is no saved position")

    def returned(self) -> None:
        """The filer was away."""
        self._gap(Reason.FILER_AWAY, "a filer that was killed forgets the last minute of its log")

    def log_lost(self, reason: str) -> None:
        """The log does not reach back to our position."""
        self._gap(Reason.LOG_LOST, reason)


def tail_config(settings: Settings, address: str) -> FilerTailConfig:
    """What to follow at the filer, and how.

    Raises:
        Misconfigured: only a part of the TLS files is set.
    """
    files = (settings.filer_tls_ca, settings.filer_tls_cert, settings.filer_tls_key)
    match files:
        case (None, None, None):
            tls = None
        case (ca, cert, key) if ca and cert and key:
            tls = FilerTls(ca_file=ca, cert_file=cert, key_file=key)
        case _:
            raise Misconfigured(
                "mutual TLS with the filer needs three files",
                hint="set all of LOTUS_FILER_TLS_CA, LOTUS_FILER_TLS_CERT and LOTUS_FILER_TLS_KEY, or none",
            )
    return FilerTailConfig(
        address=address, bucket=settings.landing_bucket, prefix=settings.landing_prefix, tls=tls
    )


def make_filer_tail(
    settings: Settings,
    streams: StreamTable,
    broker: Broker,
    publish: Callable[[KeyEvent, StreamId | None], Awaitable[bool]],
    metrics: Metrics,
    gap: Callable[[Reason, str | None], None],
) -> FilerTail | None:
    """Builds the tail; None if it is turned off.

    Args:
        settings: say which filer.
        streams: route the keys.
        broker: keeps the position.
        publish: puts a key into the queue.
        metrics: are told what the tail does.
        gap: told when events may be missing.

    Raises:
        Misconfigured: only a part of the TLS files is set.
    """
    if not settings.filer_grpc:
        return None
    config = tail_config(settings, settings.filer_grpc)

    async def publish_routed(event: KeyEvent) -> bool:
        route = streams.route(event.key)
        fresh = await publish(event, route.stream.id if route else None)
        fault.point("published")
        return fresh

    async def load() -> int | None:
        saved = await broker.kv_get("state", POSITION)
        return int(saved) if saved and saved.isdigit() else None

    async def save(position_ns: int) -> None:
        await broker.kv_put("state", POSITION, str(position_ns).encode())
        fault.point("position saved")

    return FilerTail(config, publish_routed, load, save, TailReport(metrics, gap))
