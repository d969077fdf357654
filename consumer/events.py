"""The key event: what every way in publishes and every worker claims.

Source of the form: JSON Schema `lotus-lake.key/1`. An event is a hint that an object version arrived or went;
the bucket is the truth, so a worker looks at the object and not at the event.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NewType, NoReturn, cast

from consumer.errors import BadKeyEvent

SCHEMA = "lotus-lake.key/1"

Identity = NewType("Identity", str)
"""Names one object version (and, for a removal, its end): 32 lower-case hex digits."""

KEY_BYTES_MAX = 1024
EVENT_BYTES_MAX = 65_536
_TEXT_MAX = 1024  # etag, version id, names and reasons
_SIZE_MAX = 2**63 - 1
_MTIME_MAX_S = 253_402_300_800.0  # year 10000, where datetime ends

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_FIELDS = ("schema", "event", "bucket", "key", "etag", "size", "mtime", "version_id", "found_by", "sent_at")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Who asked for a key to be loaded again, and why."""

    by: str
    reason: str

    def __post_init__(self) -> None:
        _check_text("replay.by", self.by)
        _check_text("replay.reason", self.reason)


@dataclass(frozen=True, kw_only=True)
class KeyEvent:
    """One object version that arrived or went.

    Attributes:
        event: "created" for any write, "removed" for a deletion or the old name of a rename.
        bucket: the bucket's name.
        key: the object's key, 1 to 1,024 bytes of UTF-8 without NUL.
        etag: without quotes, None if unknown.
        size: bytes, None if unknown.
        mtime: seconds since 1970 in UTC, None if unknown.
        version_id: in a versioned bucket, else None.
        found_by: the way in: "filer_tail", "seaweedfs", "s3_event", "sweep", "replay".
        sent_at: when this event was made, with a time zone.
        replay: set if an operator asked for it.

    Raises:
        BadKeyEvent: a field is out of its bounds.
    """

    event: Literal["created", "removed"]
    bucket: str
    key: str
    etag: str | None = None
    size: int | None = None
    mtime: float | None = None
    version_id: str | None = None
    found_by: str
    sent_at: datetime
    replay: Replay | None = None

    def __post_init__(self) -> None:
        if self.event not in ("created", "removed"):
            _refuse("event", 'expected "created" or "removed"')
        _check_text("bucket", self.bucket, limit=255)
        if "/" in self.bucket:
            _refuse("bucket", 'a bucket name holds no "/"')
        _check_text("key", self.key, limit=KEY_BYTES_MAX)
        _check_text("found_by", self.found_by, limit=64)
        for name, text in (("etag", self.etag), ("version_id", self.version_id)):
            if text is not None:
                _check_text(name, text)
        if self.size is not None and not 0 <= self.size <= _SIZE_MAX:
            _refuse("size", "expected bytes from 0 to 2^63-1")
        if self.mtime is not None and not 0 <= self.mtime < _MTIME_MAX_S:
            _refuse("mtime", "expected seconds since 1970, up to the year 9999")
        if self.sent_at.utcoffset() is None:
            _refuse("sent_at", "expected a time with its zone")

    def identity(self) -> Identity:
        """Name this object version, the same for every way in that saw the same fields.

        A removal has a name of its own: with that of the creation it would be refused as a repeat while the
        creation is in flight, and rows of a removed object would stay. So has a replay, whoever asked for it:
        it loads what the same event without it leaves alone.
        """
        fields = (
            self.bucket,
            self.key,
            self.version_id or "",
            self.etag or "",
            "" if self.size is None else str(self.size),
            "" if self.mtime is None else str(math.floor(self.mtime)),
        )
        # NUL can't occur in any field, so the joined text has one reading only.
        kind = () if self.event == "created" else (self.event,)
        text = "\0".join((*fields, *kind, *(("replay",) if self.replay is not None else ())))
        return Identity(hashlib.sha256(text.encode()).hexdigest()[:32])

    def to_json(self) -> bytes:
        """Write the event as UTF-8 JSON; unknown values are null, an absent replay is left out."""
        document: dict[str, object] = {
            "schema": SCHEMA,
            "event": self.event,
            "bucket": self.bucket,
            "key": self.key,
            "etag": self.etag,
            "size": self.size,
            "mtime": self.mtime,
            "version_id": self.version_id,
            "found_by": self.found_by,
            "sent_at": self.sent_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }
        if self.replay is not None:
            document["replay"] = {"by": self.replay.by, "reason": self.replay.reason}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, payload: bytes) -> "KeyEvent":
        """Read an event, strictly.

        Raises:
            BadKeyEvent: it is no such JSON; the text names the first field that is wrong.
        """
        document = _document(payload)
        if document.get("schema") != SCHEMA:
            found = document.get("schema", "none")
            _refuse("schema", f'expected "{SCHEMA}", found {_short(found)}')
        for name in _FIELDS:
            if name not in document:
                _refuse(name, "missing; an unknown value is written as null")
        unknown = sorted(set(document) - {*_FIELDS, "replay"})
        if unknown:
            _refuse(_short(unknown[0]), f"unknown field; {SCHEMA} has none of that name")
        event = _text(document, "event")
        if event not in ("created", "removed"):
            _refuse("event", f'expected "created" or "removed", found {_short(event)}')
        return cls(
            event=event,
            bucket=_text(document, "bucket"),
            key=_text(document, "key"),
            etag=_text_or_null(document, "etag"),
            size=_whole_or_null(document, "size"),
            mtime=_number_or_null(document, "mtime"),
            version_id=_text_or_null(document, "version_id"),
            found_by=_text(document, "found_by"),
            sent_at=_time(document, "sent_at"),
            replay=_replay(document["replay"]) if "replay" in document else None,
        )


def _refuse(field: str, message: str) -> NoReturn:
    raise BadKeyEvent(f"key event, {field}: {message}")


def _short(value: object) -> str:
    """Quote at most 40 characters, so that an error stays one line whatever was sent."""
    text = repr(value[:80] if isinstance(value, str) else value) if isinstance(value, str | int) else ""
    if not text:
        return f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}…"


def _check_text(field: str, text: str, *, limit: int = _TEXT_MAX) -> None:
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        _refuse(field, "is not valid UTF-8")
    if not 1 <= length <= limit:
        _refuse(field, f"expected 1 to {limit:,} bytes of UTF-8, found {length:,}")
    if "\0" in text:
        _refuse(field, "holds a NUL")


def _document(payload: bytes) -> Mapping[str, object]:
    if len(payload) > EVENT_BYTES_MAX:
        raise BadKeyEvent(f"key event: {len(payload):,} bytes, expected at most {EVENT_BYTES_MAX:,}")
    try:
        value: object = json.loads(payload.decode(), parse_constant=_no_constant, object_pairs_hook=_pairs)
    except UnicodeDecodeError as error:
        raise BadKeyEvent(f"key event: not UTF-8 at byte {error.start:,}") from None
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadKeyEvent(f"key event: {len(payload):,} bytes that are not JSON{where}") from None
    if not isinstance(value, dict):
        raise BadKeyEvent(f"key event: expected a JSON object, found a {type(value).__name__}")
    return cast("dict[str, object]", value)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise BadKeyEvent("key event: a field stands twice in one object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise BadKeyEvent(f"key event: {name} is not JSON")


def _text(document: Mapping[str, object], name: str) -> str:
    value = document[name]
    if not isinstance(value, str):
        _refuse(name, f"expected a text, found {_short(value)}")
    return value


def _text_or_null(document: Mapping[str, object], name: str) -> str | None:
    return None if document[name] is None else _text(document, name)


def _whole_or_null(document: Mapping[str, object], name: str) -> int | None:
    value = document[name]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        _refuse(name, f"expected a whole number or null, found {_short(value)}")
    return value


def _number_or_null(document: Mapping[str, object], name: str) -> float | None:
    value = document[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= _MTIME_MAX_S:
        _refuse(name, f"expected seconds since 1970 or null, found {_short(value)}")
    return float(value)


def _time(document: Mapping[str, object], name: str) -> datetime:
    text = _text(document, name)
    if not _RFC3339.fullmatch(text):
        _refuse(name, f"expected an RFC 3339 time with its zone, found {_short(text)}")
    try:
        # Python keeps six digits of a second and refuses more than it can read.
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.upper()))
    except ValueError:
        _refuse(name, f"no such time: {_short(text)}")


def _replay(value: object) -> Replay:
    if not isinstance(value, dict):
        _refuse("replay", f"expected an object with by and reason, found {_short(value)}")
    document = cast("dict[str, object]", value)
    if set(document) != {"by", "reason"}:
        _refuse("replay", "expected exactly the fields by and reason")
    return Replay(by=_text(document, "by"), reason=_text(document, "reason"))
