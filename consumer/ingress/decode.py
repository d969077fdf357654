"""Turn a raw notification, whoever sent it, into key events: the first form that matches wins."""

from collections.abc import Mapping
from datetime import datetime

from consumer.errors import Undecodable
from consumer.events import KeyEvent
from consumer.ingress import gocdk
from consumer.ingress.s3_event import decode_s3_event, read_s3_json
from consumer.ingress.seaweedfs import decode_notification

FOUND_BY_SEAWEEDFS = "seaweedfs"
PAYLOAD_BYTES_MAX = 8 * 1024 * 1024


def decode(payload: bytes, headers: Mapping[str, str] | None, *, now: datetime) -> tuple[KeyEvent, ...]:
    """Return the key events of a raw notification, none if it tells of nothing that concerns an object.

    Raises:
        Undecodable: it has no known form; keep it whole.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Undecodable(f"{len(payload):,} bytes, expected at most {PAYLOAD_BYTES_MAX:,}")
    if headers and gocdk.KEY in headers:
        return _seaweedfs(gocdk.unwrap_v2(payload, headers), now=now)
    document = read_s3_json(payload)
    if document is not None:
        return decode_s3_event(document, now=now)
    return _seaweedfs(gocdk.unwrap_v1(payload), now=now)


def _seaweedfs(envelope: gocdk.Envelope, *, now: datetime) -> tuple[KeyEvent, ...]:
    return decode_notification(envelope.body, path=envelope.path, found_by=FOUND_BY_SEAWEEDFS, now=now)
