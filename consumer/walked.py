"""How an attempt at a key ended, and what it leaves behind: what the walk returns, and its verdict is made of."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import assert_never

from consumer.events import KeyEvent
from consumer.evidence import Detail, of_schemas
from consumer.verdict import Ending
from feeders.ledger import ObjectVersion
from feeders.parquet_types import FileSchema
from feeders.streams import Stream
from feeders.work import Outcome, Result


@dataclass(kw_only=True)
class Trace:
    """What one attempt at a key leaves behind: seconds in each stage, and what it learned of the object.

    `etag` is of what the GET brought; `compared` are a stream and the schema that its file has.
    """

    stages: dict[str, float] = field(default_factory=dict[str, float])
    etag: str | None = None
    compared: tuple[Stream, FileSchema] | None = None

    @property
    def schemas(self) -> Detail:
        """The expected and the found schema, for a dead letter; empty if the file's could not be read."""
        return of_schemas(*self.compared) if self.compared else {}

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Measures the block as one stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True, kw_only=True)
class Walked:
    """How one attempt at a key ended, with the facts for its log line, its metrics and its dead letter."""

    ending: Ending
    stream: Stream | None = None
    reason: str | None = None
    detail: Detail = field(default_factory=dict[str, "str | int | None"])
    version: ObjectVersion | None = None
    etag: str | None = None
    rows: int = 0
    rescued_rows: int = 0
    result: Result | None = None


def unrouted(event: KeyEvent, bucket_name: str) -> Walked:
    """A key that belongs to no stream, with what a person needs to see why; that it is gone is no trouble."""
    if event.event == "removed":
        return Walked(ending=Ending.ABSENT)
    if event.bucket != bucket_name:
        error, expected = "of another bucket", f"a key of the landing bucket, {bucket_name}"
    else:
        error = "no stream's landing place and layout match this key"
        expected = "a stream's landing place (ddl/), then YYYY_MM_DD_….parquet or year=YYYY/month=MM/day=DD/….parquet"
    return Walked(
        ending=Ending.UNROUTED,
        reason="unrouted",
        detail={"error": error, "expected": expected, "bucket": event.bucket},
    )


def unavailable(stream: Stream, dependency: str, error: Exception) -> Walked:
    """A dependency does not answer, or not yet: no fault of the key's."""
    return Walked(ending=Ending.UNAVAILABLE, stream=stream, reason=dependency, detail={"error": str(error)})


def superseded(walked: Walked, event: KeyEvent) -> Walked:
    """A duplicate that is not the version which the event is about: that one was overwritten, and never read."""
    is_other = walked.version is not None and event.etag not in (None, walked.version.etag)
    if walked.ending is Ending.DUPLICATE and is_other:
        return replace(walked, ending=Ending.SUPERSEDED)
    return walked


def ending_of(outcome: Outcome) -> Ending:
    """The walk's ending for what the transaction did."""
    match outcome:
        case Outcome.LOADED:
            return Ending.LOADED
        case Outcome.REPLACED:
            return Ending.REPLACED
        case Outcome.REPLAYED:
            return Ending.REPLAYED
        case Outcome.DUPLICATE:
            return Ending.DUPLICATE
        case Outcome.REMOVED:
            return Ending.REMOVED
        case Outcome.ABSENT:
            return Ending.ABSENT
        case Outcome.RECORDED:
            raise ValueError("a dead letter's record is no ending of a walk")
        case _:
            assert_never(outcome)
