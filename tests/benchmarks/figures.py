"""What benchmarks have in common: sizes, percentiles, and how figures are shown."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from consumer.demo import percentile

NONE = "-"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Percentiles of some durations, in milliseconds; None of no durations."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """The nearest-rank percentiles of durations in seconds."""
        values = tuple(1000 * each for each in seconds)
        return cls(p50=percentile(values, 0.50), p95=percentile(values, 0.95), p99=percentile(values, 0.99))

    @classmethod
    def mean(cls, spreads: Sequence[Self]) -> Self:
        """The mean of each percentile over several samples."""
        return cls(
            p50=mean_of(each.p50 for each in spreads),
            p95=mean_of(each.p95 for each in spreads),
            p99=mean_of(each.p99 for each in spreads),
        )

    def over(self, floor: Self) -> Self:
        """How many times as long as `floor`, percentile by percentile."""
        return type(self)(
            p50=ratio(self.p50, floor.p50), p95=ratio(self.p95, floor.p95), p99=ratio(self.p99, floor.p99)
        )

    @property
    def values(self) -> tuple[float | None, ...]:
        """The percentiles in ascending order."""
        return self.p50, self.p95, self.p99


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there."""
    known = [value for value in values if value is not None]
    return round(statistics.mean(known), 1) if known else None


def ratio(value: float | None, floor: float | None) -> float | None:
    """Their quotient, if both are there."""
    return round(value / floor, 2) if value is not None and floor else None


def scaled(count: int, scale: float, *, least: int = 1) -> int:
    """So many of `count` at this scale."""
    return max(least, round(count * scale))


def say(line: str) -> None:
    """Shows progress and results: `make bench` captures nothing."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def say_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Shows a Markdown table."""
    say(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        say(f"| {' | '.join(row)} |")


def shown(value: float | None, *, digits: int = 0) -> str:
    """A number for a table."""
    return NONE if value is None else f"{value:,.{digits}f}"
