"""What a request about dead letters says: JSON Schema `lotus-lake.dead-letters/1` (docs/replay.md)."""

from dataclasses import dataclass
from typing import Literal

from consumer.replay_request import UNKNOWN_PERSON, read_letter_filter
from consumer.requests import PERSON_BYTES_MAX, REASON_BYTES_MAX, read_fields, shown
from feeders.letters import LetterFilter

SCHEMA = "lotus-lake.dead-letters/1"
LETTERS_MOST = 1000
LETTERS_USUAL = 100

LetterOp = Literal["list", "summary", "show", "drop"]
OPS: tuple[LetterOp, ...] = ("list", "summary", "show", "drop")

FIELDS = (
    "op",
    "dead",
    "source",
    "stream",
    "key",
    "prefix",
    "all",
    "limit",
    "by",
    "reason",
    "dry_run",
)
_HINT = (
    'e.g. {}, {"op": "summary"}, {"op": "list", "dead": "<reason>"}, {"op": "show", "key": "raw/..."} or {"op": "drop",'
    ' "dead": "<reason>", "reason": "why", "by": "who"}; "dead" is the reason that letters have, "*" is any'
)


@dataclass(frozen=True, kw_only=True)
class LetterRequest:
    """What is wanted of which dead letters; `reason` is the person's own, for a drop."""

    op: LetterOp
    which: LetterFilter
    limit: int
    by: str
    reason: str | None
    dry_run: bool


def read_letter_request(payload: bytes) -> LetterRequest:
    """Reads a request.

    Raises:
        BadRequest: it is no such request; the text says what was found and what was expected.
    """
    fields = read_fields(payload, schema=SCHEMA, names=FIELDS, hint=_HINT)
    op = fields.text("op", limit=32) or "list"
    if op not in OPS:
        fields.refuse("op", f"expected list, summary, show or drop, found {shown(op)}")
    reason = fields.line("reason", limit=REASON_BYTES_MAX)
    wants_resolved = fields.flag("all")
    if op == "drop":
        if reason is None:
            fields.refuse("reason", "missing; why they are dropped is recorded")
        if not fields.has("dead", "source", "key", "prefix"):
            fields.refuse("dead", 'missing; to drop every dead letter say "dead": "*"')
        if wants_resolved:
            fields.refuse("all", "only open dead letters can be dropped")
    return LetterRequest(
        op=op,
        which=read_letter_filter(fields, state_any=wants_resolved),
        limit=fields.whole("limit", least=1, most=LETTERS_MOST, default=LETTERS_USUAL),
        by=fields.line("by", limit=PERSON_BYTES_MAX) or UNKNOWN_PERSON,
        reason=reason,
        dry_run=fields.flag("dry_run"),
    )
