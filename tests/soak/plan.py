"""What a soak was asked for on the command line."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a soak is run.

    Attributes:
        minutes: how long files land.
        record: a file that each sample is appended to as a JSON line.
        fault: the fault of tests/soak/broken.py that the consumer has.
    """

    minutes: float
    record: Path | None
    fault: str | None
