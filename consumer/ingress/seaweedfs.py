"""Read SeaweedFS's own change records (`EventNotification`, protobuf) as key events.

The same record comes over two ways: the filer's metadata log and its native notifications. It names the
parent of the new entry only, so the path of what was before comes beside it.
"""

import base64
import binascii
import hashlib
from datetime import datetime
from typing import Literal

from google.protobuf.message import DecodeError

from consumer.errors import BadKeyEvent, Undecodable
from consumer.events import KeyEvent
from consumer.ingress.filer_pb2 import Entry, EventNotification, FileChunk
from consumer.ingress.versions import known_version, split_version

BUCKETS = "/buckets/"
_ETAG = "Seaweed-X-Amz-ETag"
_VERSION_ID = "Seaweed-X-Amz-Version-Id"
_DELETE_MARKER = "Seaweed-X-Amz-Delete-Marker"


def decode_notification(payload: bytes, *, path: str, found_by: str, now: datetime) -> tuple[KeyEvent, ...]:
    """Return the key events of one change, none for what is not a change of an object.

    Args:
        payload: a serialized `EventNotification`.
        path: what changed: the old entry's path if there is one, else the new one's.
        found_by: the way in, for the events.
        now: the events' time.

    Raises:
        Undecodable: the payload is no `EventNotification`, or its object can't have a key.
    """
    return _events(_parse(payload), path=path, found_by=found_by, now=now)


def decode_logged(payload: bytes, *, directory: bytes, found_by: str, now: datetime) -> tuple[KeyEvent, ...]:
    """Return the key events of one record of the filer's log, which tells the directory and not the path.

    Raises:
        Undecodable: as `decode_notification`.
    """
    change = _parse(payload)
    name = change.old_entry.name if change.HasField("old_entry") else change.new_entry.name
    try:
        path = f"{directory.decode().rstrip('/')}/{name}"
    except UnicodeDecodeError:
        raise Undecodable("a directory whose name is not UTF-8") from None
    return _events(change, path=path, found_by=found_by, now=now)


def _parse(payload: bytes) -> EventNotification:
    try:
        change = EventNotification.FromString(payload)
    except DecodeError:
        raise Undecodable(f"{len(payload):,} bytes that are no EventNotification") from None
    if not change.HasField("old_entry") and not change.HasField("new_entry"):
        raise Undecodable("an EventNotification with neither an old nor a new entry")
    return change


def _events(change: EventNotification, *, path: str, found_by: str, now: datetime) -> tuple[KeyEvent, ...]:
    old = change.old_entry if change.HasField("old_entry") else None
    new = change.new_entry if change.HasField("new_entry") else None
    new_path = f"{change.new_parent_path.rstrip('/')}/{new.name}" if new and change.new_parent_path else path
    if old is not None and new is not None and path == new_path and _is_only_metadata(new_path, old, new):
        return ()
    # Of an overwrite the new version tells all; only what left its path is a removal.
    gone = old if new is None or path != new_path else None
    try:
        events = (
            _event("removed", path, gone, found_by=found_by, now=now),
            _event("created", new_path, new, found_by=found_by, now=now),
        )
    except BadKeyEvent as error:
        raise Undecodable(str(error)) from None
    return tuple(event for event in events if event is not None)


def _is_only_metadata(path: str, old: Entry, new: Entry) -> bool:
    if split_version(path)[1] is not None:
        return True  # a stored version never changes; only which one is the latest does
    return (_etag(old), _size(old), _mtime(old)) == (_etag(new), _size(new), _mtime(new))


def _event(
    event: Literal["created", "removed"], path: str, entry: Entry | None, *, found_by: str, now: datetime
) -> KeyEvent | None:
    """Return the event, or None if the entry is no object of a bucket."""
    if entry is None or entry.is_directory or not path.startswith(BUCKETS):
        return None
    bucket, _, key = path.removeprefix(BUCKETS).partition("/")
    if not bucket or bucket.startswith(".") or not key or key.split("/", 1)[0] == ".uploads":
        return None
    version_id = _text(entry.extended.get(_VERSION_ID, b""))
    if version_id is not None:
        # Without the attribute it is an object that is really called so.
        key, _ = split_version(key)
    version_id = known_version(version_id)
    if _text(entry.extended.get(_DELETE_MARKER, b"")) == "true":
        # The marker's own end brings the object back, its beginning hides it. Its id and time are in the event
        # because a second marker must not be taken for the first one while that is in work.
        return KeyEvent(
            event="removed" if event == "created" else "created",
            bucket=bucket,
            key=key,
            mtime=_mtime(entry),
            version_id=version_id,
            found_by=found_by,
            sent_at=now,
        )
    return KeyEvent(
        event=event,
        bucket=bucket,
        key=key,
        etag=_etag(entry),
        size=_size(entry),
        mtime=_mtime(entry),
        version_id=version_id,
        found_by=found_by,
        sent_at=now,
    )


def _etag(entry: Entry) -> str | None:
    """Return the ETag as S3's HEAD shows it: as stored, else of the whole, else of the chunks."""
    stored = _text(entry.extended.get(_ETAG, b""))
    if stored is not None:
        return stored.strip('"') or None
    if entry.attributes.md5:
        return entry.attributes.md5.hex()
    digests = [_chunk_md5(chunk) for chunk in entry.chunks]
    known = [digest for digest in digests if digest]
    if not known or len(known) < len(digests):
        return None
    if len(known) == 1:
        return known[0].hex()
    # MD5 is S3's form of a multipart ETag, it protects nothing here.
    return f"{hashlib.md5(b''.join(known), usedforsecurity=False).hexdigest()}-{len(known)}"


def _chunk_md5(chunk: FileChunk) -> bytes | None:
    try:
        return base64.b64decode(chunk.e_tag, validate=True)
    except (binascii.Error, ValueError):
        return None


def _size(entry: Entry) -> int:
    ends = (chunk.offset + chunk.size for chunk in entry.chunks)
    return max(entry.attributes.file_size, len(entry.content), max(ends, default=0))


def _mtime(entry: Entry) -> float | None:
    """Return seconds; both are 0 in an entry without times."""
    seconds = entry.attributes.mtime + entry.attributes.mtime_ns / 1e9
    return seconds if seconds > 0 else None


def _text(value: bytes) -> str | None:
    try:
        return value.decode() or None
    except UnicodeDecodeError:
        return None
