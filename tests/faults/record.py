"""What a fault cost: one JSON line for each test of `make faults`, from which docs/reliability.md has its tables."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Fault(StrEnum):
    """The faults, by the names that the table has for them, in its order."""

    DEATH = "consumer: kill -9 before and after each step"
    WEED_KILLED = "SeaweedFS: kill -9 and restart"
    WEED_STOPPED = "SeaweedFS: SIGSTOP for 5 s"
    NATS_KILLED = "NATS: kill -9 and restart"
    NATS_STOPPED = "NATS: SIGSTOP for 5 s"
    POSTGRES_KILLED = "PostgreSQL: kill -9 and restart"
    POSTGRES_STOPPED = "PostgreSQL: SIGSTOP for 5 s"
    S3_500 = "S3: 500 for a share of requests"
    S3_503 = "S3: 503 for a share of requests"
    S3_HALF = "S3: connections closed half-way"
    S3_SLOW = "S3: 200 ms late"
    COMMIT_CUT = "PostgreSQL: cut in the middle of COMMIT"
    COMMIT_STOPPED = "PostgreSQL: stopped hard within 30 ms of COMMIT"
    LAKE_FULL = "lake bucket: full"
    TWICE = "notifications: each twice, shuffled"
    BUSY = "notifications: again while the first worker is busy"
    HOUR_AGO = "notifications: tail restarted from an hour ago"
    DROPPED = "notifications: 30 % dropped"
    WRITER_KILLED = "the writer of three replicas: kill -9"
    WRITER_STOPPED = "the writer of three replicas: SIGSTOP, SIGCONT after the takeover"
    WRITER_CUT = "the writer of three replicas: network cut in silence, mended after the takeover"
    WRITER_TOLD = "the writer of three replicas: SIGTERM"
    MACHINE = "random play: landings, deletions, redeliveries, crashes, takeovers"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one test did and how long it took to be whole again.

    Attributes:
        fault: which fault.
        kills: how often a process was killed or stopped, or a connection or request was spoiled.
        restarts: how often a process was started again, or let go on.
        files: puts into the landing bucket, overwrites and broken objects included.
        recovery_s: seconds from each fault's end until everything was loaded and the models were fresh.
        points: deaths at each named step.
        detail: counts that only this fault has.
    """

    fault: Fault
    kills: int
    restarts: int
    files: int
    recovery_s: list[float]
    points: Mapping[str, int] = field(default_factory=dict[str, int])
    detail: Mapping[str, int] = field(default_factory=dict[str, int])


class Book:
    """Appends records to a file; without a file they are only counted."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, record: Record) -> None:
        """Appends one line: short enough to be written in one piece, whoever else appends."""
        if self._path is None:
            return
        line = {**asdict(record), "recovery_s": [round(seconds, 2) for seconds in record.recovery_s]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_book(path: Path) -> list[Record]:
    """Reads the records of one run."""
    records: list[Record] = []
    for line in path.read_text().splitlines():
        fields: dict[str, Any] = json.loads(line)
        records.append(Record(fault=Fault(fields.pop("fault")), **fields))
    return records
