"""The key events by which an audit finds its keys in the queue, and repairs what it found."""

from datetime import UTC, datetime

from consumer.events import KeyEvent, Replay
from feeders.audit_findings import Finding

FOUND_BY = "audit"


def created_event(finding: Finding, *, bucket: str) -> KeyEvent:
    """The event that a sweep would publish of an object. Raises BadKeyEvent: no event can name it."""
    return KeyEvent(
        event="created",
        bucket=bucket,
        key=finding.key,
        etag=finding.etag or None,
        size=finding.size_bytes,
        mtime=finding.modified_s,
        found_by=FOUND_BY,
        sent_at=datetime.now(UTC),
    )


def replay_event(key: str, *, bucket: str, replay: Replay) -> KeyEvent:
    """The event that has an object loaded again, whatever the ledger says. Raises BadKeyEvent."""
    return KeyEvent(
        event="created", bucket=bucket, key=key, found_by=FOUND_BY, sent_at=datetime.now(UTC), replay=replay
    )
