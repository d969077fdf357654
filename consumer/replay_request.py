"""What a request for a replay says: JSON Schema `lotus-lake.replay/1` (docs/replay.md)."""

import re
from dataclasses import dataclass
from datetime import date

from consumer.events import KEY_BYTES_MAX, Replay
from consumer.requests import PERSON_BYTES_MAX, REASON_BYTES_MAX, Fields, read_fields, shown
from feeders.letters import LetterFilter
from feeders.streams import StreamId

SCHEMA = "lotus-lake.replay/1"
UNKNOWN_PERSON = "unknown (NATS)"
NO_REASON = "none given"
ANY_REASON = "*"
NAME_BYTES_MAX = 255
_ID = re.compile(r"[0-9a-f]{16}")

FIELDS = ("key", "prefix", "source", "stream", "from", "to", "dead", "by", "reason", "dry_run")
_HINT = (
    'one of {"key": "raw/..."}, {"prefix": "raw/..."}, {"source": "...", "stream": "...", "from": "2026-07-01",'
    ' "to": "2026-07-31"} and {"dead": "<reason>"}, and with each "by", "reason" and "dry_run" if you like'
)


@dataclass(frozen=True, kw_only=True)
class OneKey:
    """The object with this key."""

    key: str


@dataclass(frozen=True, kw_only=True)
class Below:
    """All objects whose keys begin like this."""

    prefix: str


@dataclass(frozen=True, kw_only=True)
class Days:
    """All objects of a stream whose partition is one of these days, first and last included."""

    stream: StreamId
    first: date
    last: date


@dataclass(frozen=True, kw_only=True)
class DeadLetters:
    """The objects of these open dead letters."""

    which: LetterFilter


Selection = OneKey | Below | Days | DeadLetters


@dataclass(frozen=True, kw_only=True)
class ReplayRequest:
    """Which keys are to be loaded again, who wants it and why; `dry_run` only counts."""

    selection: Selection
    asked: Replay
    dry_run: bool


def read_replay_request(payload: bytes) -> ReplayRequest:
    """Reads a request.

    Raises:
        BadRequest: it is no such request; the text says what was found and what was expected.
    """
    fields = read_fields(payload, schema=SCHEMA, names=FIELDS, hint=_HINT)
    asked = Replay(
        by=fields.line("by", limit=PERSON_BYTES_MAX) or UNKNOWN_PERSON,
        reason=fields.line("reason", limit=REASON_BYTES_MAX) or NO_REASON,
    )
    return ReplayRequest(selection=_selection(fields), asked=asked, dry_run=fields.flag("dry_run"))


def read_status_request(payload: bytes) -> str:
    """Reads which request is asked about: the id that the answer to it had.

    Raises:
        BadRequest: it is no such request.
    """
    hint = 'e.g. {"id": "0123456789abcdef"}, as the answer to a replay has it'
    fields = read_fields(payload, schema=SCHEMA, names=("id",), hint=hint)
    wanted = fields.text("id", limit=32)
    if wanted is None or not _ID.fullmatch(wanted):
        fields.refuse("id", f"expected 16 hex digits, found {shown(wanted)}")
    return wanted


def read_letter_filter(fields: Fields, *, state_any: bool = False) -> LetterFilter:
    """Reads which dead letters a request is about: "dead" is their reason, or "*" for any."""
    if len(fields.has("source", "stream")) == 1:
        fields.refuse("source and stream", "expected both or neither")
    if len(fields.has("key", "prefix")) == 2:
        fields.refuse("key and prefix", "expected one of them at most")
    source, name = (fields.text(each, limit=NAME_BYTES_MAX) for each in ("source", "stream"))
    reason = fields.line("dead", limit=64)
    return LetterFilter(
        reason=None if reason == ANY_REASON else reason,
        stream=StreamId(source=source, stream=name) if source and name else None,
        key=fields.text("key", limit=KEY_BYTES_MAX),
        prefix=fields.text("prefix", limit=KEY_BYTES_MAX),
        state="any" if state_any else "open",
    )


def _selection(fields: Fields) -> Selection:
    if fields.has("dead"):
        if said := fields.has("from", "to"):
            fields.refuse(said[0], "dead letters are not chosen by day")
        return DeadLetters(which=read_letter_filter(fields))
    key = fields.text("key", limit=KEY_BYTES_MAX)
    prefix = fields.text("prefix", limit=KEY_BYTES_MAX)
    days = fields.has("source", "stream", "from", "to")
    if (key is not None) + (prefix is not None) + bool(days) != 1:
        found = ", ".join(fields.has("key", "prefix", "source", "stream", "from", "to")) or "none of them"
        fields.refuse("selection", f"expected a key, a prefix, a stream with days, or dead; found {found}")
    if key is not None:
        return OneKey(key=key)
    if prefix is not None:
        return Below(prefix=prefix)
    return _days(fields)


def _days(fields: Fields) -> Days:
    missing = [name for name in ("source", "stream", "from", "to") if not fields.has(name)]
    if missing:
        fields.refuse(missing[0], "missing; a stream's days need source, stream, from and to")
    source, name = (fields.text(each, limit=NAME_BYTES_MAX) or "" for each in ("source", "stream"))
    first, last = fields.day("from") or date.min, fields.day("to") or date.min
    if first > last:
        fields.refuse("from", f"{first} is after to, {last}")
    return Days(stream=StreamId(source=source, stream=name), first=first, last=last)
