"""What the writer is asked to do, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from feeders.failures import Failure
from feeders.ledger import ObjectVersion
from feeders.schema import LoadPlan
from feeders.streams import Partition, Stream


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who asked for a load, and why: on a replay, which loads whatever the ledger says."""

    by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Load:
    """Append one object version's rows, as planned from the very bytes that were read."""

    stream: Stream
    partition: Partition
    version: ObjectVersion
    plan: LoadPlan
    found_by: str
    replay: Request | None = None


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Take the rows of an object that is gone out of staging (streams with `on_delete: remove`)."""

    stream: Stream
    partition: Partition
    bucket: str
    key: str
    found_by: str


Work = Load | Removal | Failure


class Outcome(StrEnum):
    """What a committed transaction did for one work item."""

    LOADED = "loaded"
    REPLACED = "replaced"
    REPLAYED = "replayed"
    DUPLICATE = "duplicate"
    REMOVED = "removed"
    ABSENT = "absent"
    RECORDED = "recorded"


@dataclass(frozen=True, kw_only=True)
class Applied:
    """One work item's result: rows that are in staging for it now, and how long its transaction took."""

    outcome: Outcome
    rows: int = 0
    rescued_rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the consumer is told about one work item after its commit. Seconds."""

    applied: Applied
    batch_items: int
    queue_s: float
    commit_s: float


class ClaimLost(Exception):
    """The claim on a key ended before its transaction began: nothing was written for it."""


ClaimCheck = Callable[[], bool]
