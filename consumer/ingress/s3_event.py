"""Read S3 event notifications, as AWS documents them and MinIO and Ceph send them too."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NoReturn, cast
from urllib.parse import unquote_plus

from consumer.errors import BadKeyEvent, Undecodable
from consumer.events import KeyEvent
from consumer.ingress.versions import known_version, split_version

FOUND_BY = "s3_event"
_CREATED = ("ObjectCreated:",)
_REMOVED = ("ObjectRemoved:", "LifecycleExpiration:")


def read_s3_json(payload: bytes) -> Mapping[str, object] | None:
    """Return the document if the payload is an S3 event message, a test message included; else None."""
    try:
        value: object = json.loads(payload.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    document = cast("dict[str, object]", value)
    return document if "Records" in document or document.get("Event") == "s3:TestEvent" else None


def decode_s3_event(document: Mapping[str, object], *, now: datetime) -> tuple[KeyEvent, ...]:
    """Return the key events of a message, none for a test message or for events of other kinds.

    Raises:
        Undecodable: a record lacks what every S3 event has.
    """
    records = document.get("Records", [])
    if records is None:
        return ()
    if not isinstance(records, list):
        _refuse("Records", records)
    events = (_event(record, now=now) for record in cast("list[object]", records))
    return tuple(event for event in events if event is not None)


def _event(value: object, *, now: datetime) -> KeyEvent | None:
    record = _object("a record", value)
    kind = _kind(_text("eventName", record.get("eventName")).removeprefix("s3:"))
    if kind is None:
        return None
    s3 = _object("s3", record.get("s3"))
    item = _object("s3.object", s3.get("object"))
    key = _text("s3.object.key", item.get("key"))
    if record.get("eventSource") != "ceph:s3":  # alone in not encoding it
        try:
            key = unquote_plus(key, errors="strict")
        except UnicodeDecodeError:
            raise Undecodable("S3 event: s3.object.key is not form-encoded UTF-8") from None
    # A forwarder of SeaweedFS may name the version's entry; no stream has keys like that.
    key, entry_version = split_version(key)
    etag = item.get("eTag", item.get("etag"))
    size = item.get("size")
    version_id = item.get("versionId", entry_version)
    try:
        return KeyEvent(
            event=kind,
            bucket=_text("s3.bucket.name", _object("s3.bucket", s3.get("bucket")).get("name")),
            key=key,
            # An empty text is how forwarders write "none".
            etag=_text("s3.object.eTag", etag).strip('"') or None if etag is not None else None,
            size=_whole("s3.object.size", size) if size is not None else None,
            version_id=known_version(_text("s3.object.versionId", version_id))
            if version_id is not None
            else None,
            found_by=FOUND_BY,
            sent_at=now,
        )
    except BadKeyEvent as error:
        raise Undecodable(f"S3 event: {error}") from None


def _kind(name: str) -> Literal["created", "removed"] | None:
    if name.startswith(_CREATED):
        return "created"
    return "removed" if name.startswith(_REMOVED) else None


def _object(field: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        _refuse(field, value)
    return cast("dict[str, object]", value)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        _refuse(field, value)
    return value


def _whole(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(field, value)
    return value


def _refuse(field: str, value: object) -> NoReturn:
    raise Undecodable(f"S3 event: {field} is a {type(value).__name__}")
