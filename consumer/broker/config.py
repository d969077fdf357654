"""What we ask of the NATS server: one connection, js_streams, KV buckets, limits."""

from dataclasses import dataclass, field
from typing import Literal

from consumer.subjects import check_namespace

_MIB = 1024 * 1024
_DAY_S = 86_400.0

Bucket = Literal["inflight", "state"]
BUCKETS: tuple[Bucket, ...] = ("inflight", "state")


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """How to reach NATS, and how much we may keep there.

    Attributes:
        url: `nats://host:port`, several with commas between.
        client_name: shown by the server's own tools.
        ack_wait_s: how long a claim lasts without a sign of life.
        request_timeout_s: how long one answer of the server is waited for.
        replicas: copies of each js_stream that we create, on a cluster.
        *_max_bytes: the server reserves these on its disk.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    namespace: str = "lake"
    client_name: str = "lotus-lake"
    ack_wait_s: float = 30.0
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 5.0
    replicas: int = 1
    keys_max_bytes: int = 1024 * _MIB
    events_max_bytes: int = 512 * _MIB
    dead_max_bytes: int = 128 * _MIB
    commits_max_bytes: int = 128 * _MIB
    bucket_max_bytes: int = 32 * _MIB

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        if not 1 <= self.ack_wait_s <= 3600:
            raise ValueError(f"ack_wait_s is 1 to 3,600 seconds, found {self.ack_wait_s}")


@dataclass(frozen=True, kw_only=True)
class JsStream:
    """A js_stream as it has to be; `max_bytes` and `max_age_s` follow the settings, the rest is fixed.

    `hints` is where the server says what it has stored, without it; one that lacks that gets it.
    """

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "workqueue"] = "limits"
    discard: Literal["old", "new"] = "old"
    discard_new_per_subject: bool = False
    max_msgs_per_subject: int = -1
    max_bytes: int
    max_age_s: float | None = None
    hints: str | None = None


def keys_stream(config: BrokerConfig) -> JsStream:
    """Return the queue of key events: an identity that is pending or in flight is refused (design D9)."""
    return JsStream(
        name=f"{config.namespace}_keys",
        subjects=(f"{config.namespace}.keys.>",),
        retention="workqueue",
        discard="new",
        discard_new_per_subject=True,
        max_msgs_per_subject=1,
        max_bytes=config.keys_max_bytes,
        hints=f"{config.namespace}.hints.>",
    )


def events_stream(config: BrokerConfig) -> JsStream:
    """Return what keeps raw notifications, as SeaweedFS and others publish them."""
    return JsStream(
        name=f"{config.namespace}_events",
        subjects=(f"{config.namespace}.events.>",),
        max_bytes=config.events_max_bytes,
        max_age_s=7 * _DAY_S,
    )


def js_streams(config: BrokerConfig) -> tuple[JsStream, ...]:
    """Return all js_streams of a namespace."""
    ns = config.namespace
    return (
        keys_stream(config),
        events_stream(config),
        JsStream(
            name=f"{ns}_commits",
            subjects=(f"{ns}.commits.>",),
            max_bytes=config.commits_max_bytes,
            max_age_s=7 * _DAY_S,
        ),
        # A feed only: the dead letters themselves are rows of meta.feeder_failures.
        JsStream(name=dead_stream(config), subjects=(f"{ns}.dead.>",), max_bytes=config.dead_max_bytes),
    )


def dead_stream(config: BrokerConfig) -> str:
    """Return the server's name of the feed of dead letters."""
    return f"{config.namespace}_dead"


def bucket_name(config: BrokerConfig, bucket: Bucket) -> str:
    """Return the server's name of a KV bucket."""
    return f"{config.namespace}_{bucket}"
