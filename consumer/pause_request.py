"""What a request to pause or resume a stream says: JSON Schema `lotus-lake.pause/1` (docs/pause.schema.json)."""

from dataclasses import dataclass

from consumer.replay_request import NAME_BYTES_MAX, NO_REASON, UNKNOWN_PERSON
from consumer.requests import PERSON_BYTES_MAX, REASON_BYTES_MAX, Fields, read_fields
from feeders.streams import StreamId

SCHEMA = "lotus-lake.pause/1"
_FIELDS = ("source", "stream", "by", "reason")
_HINT = (
    'e.g. {"source": "shopify", "stream": "orders", "by": "who", "reason": "why"}; a pause of {} lists the paused'
    " ones"
)


@dataclass(frozen=True, kw_only=True)
class PauseRequest:
    """Which stream, who asks and why."""

    stream: StreamId
    by: str
    reason: str


def read_pause_request(payload: bytes) -> PauseRequest | None:
    """Reads a request to pause a stream; None if it has no field, and asks which ones are paused.

    Raises:
        BadRequest: it is no such request; the text says what was found and what was expected.
    """
    fields = read_fields(payload, schema=SCHEMA, names=_FIELDS, hint=_HINT)
    return _named(fields) if fields.has(*_FIELDS) else None


def read_resume_request(payload: bytes) -> PauseRequest:
    """Reads a request to go on with a stream.

    Raises:
        BadRequest: it is no such request; the text says what was found and what was expected.
    """
    return _named(read_fields(payload, schema=SCHEMA, names=_FIELDS, hint=_HINT))


def _named(fields: Fields) -> PauseRequest:
    source, name = (fields.text(each, limit=NAME_BYTES_MAX) for each in ("source", "stream"))
    if source is None or name is None:
        found = " and ".join(fields.has("source", "stream")) or "none of them"
        fields.refuse("source and stream", f"expected both, found {found}")
    return PauseRequest(
        stream=StreamId(source=source, stream=name),
        by=fields.line("by", limit=PERSON_BYTES_MAX) or UNKNOWN_PERSON,
        reason=fields.line("reason", limit=REASON_BYTES_MAX) or NO_REASON,
    )
