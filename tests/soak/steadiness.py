"""The figures of a soak, and which of them it is held to.

The first third of a run is warm-up: pools of connections and threads fill, and caches. What is counted in the last
third is held against the second.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from consumer.demo import percentile
from consumer.settings import Settings, duckdb_memory
from tests.soak.trend import LEAST_POINTS, theil_sen
from tests.soak.watching import Arrival, Sample

MIB = 1024**2
MB = 10**6
LONG_MINUTES = 15
"""From here on latency and the slope of memory are held to a limit: in less time they are noise."""

MORE_AT_MOST_FDS = int(Settings.model_fields["worker_reads"].default)
"""So many objects are read at once after a pause of the writer, each by a connection and into a file of its own."""
MORE_AT_LEAST_FDS = 6
"""What stays open when nothing is read: pools of connections that were not filled before."""
MORE_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""asyncio's pool of threads has so many at most, and gets another one only when all are busy."""

MOST_RSS_MIB = duckdb_memory() // MIB + 512
"""DuckDB's memory, and as much for all that it does not count and all that is not DuckDB: about 250 at the start."""
MOST_SLOPE_MB_H = 1.0
MOST_P99_GROWTH = 1.2


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a run. `limit` is the most that it may be; None if it is only reported."""

    name: str
    value: float | None
    limit: float | None = None
    note: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether it is within its limit."""
        return self.limit is None or (self.value is not None and self.value <= self.limit)


@dataclass(frozen=True, kw_only=True)
class Period:
    """The whole life of one DuckDB instance of the writer: when its process was smallest, and how small.

    The instance keeps memory for each commit and is closed after so many of them, so resident memory is a sawtooth.
    Only the same point of each tooth tells of a slope; the lowest one is where another instance was opened.
    """

    at_s: float
    rss_bytes: int


def figures(samples: Sequence[Sample], arrivals: Sequence[Arrival], *, minutes: float) -> list[Figure]:
    """All figures of a run that landed for so many minutes."""
    return [
        *_memory(samples, minutes),
        _highest("fds", samples, minutes, lambda sample: sample.fds, more=MORE_AT_MOST_FDS),
        _lowest("fds", samples, minutes, lambda sample: sample.fds, more=MORE_AT_LEAST_FDS),
        _highest("threads", samples, minutes, lambda sample: sample.threads, more=MORE_THREADS),
        *_latency(arrivals, minutes),
    ]


def whole_periods(samples: Sequence[Sample], *, from_s: float) -> list[Period]:
    """The periods that began after `from_s` and have ended."""
    opened = [sample for sample in samples if sample.opened_at]
    lives = [list(life) for _, life in groupby(opened, key=lambda sample: sample.opened_at)]
    smallest = [
        min(life, key=lambda sample: sample.rss_bytes) for life in lives[1:-1] if life[0].at_s >= from_s
    ]
    return [Period(at_s=sample.at_s, rss_bytes=sample.rss_bytes) for sample in smallest]


def latencies(arrivals: Sequence[Arrival], *, from_s: float, until_s: float) -> tuple[float, ...]:
    """Milliseconds from PUT to staging, of what was put in these seconds and seen."""
    return tuple(
        arrival.latency_ms
        for arrival in arrivals
        if arrival.latency_ms is not None and from_s <= arrival.put_at_s < until_s
    )


def _memory(samples: Sequence[Sample], minutes: float) -> list[Figure]:
    third_s = 60 * minutes / 3
    periods = whole_periods(samples, from_s=third_s)
    levels = [
        Figure(name="rss_mib_at_first", value=round(samples[0].rss_bytes / MIB, 1)),
        Figure(
            name="rss_mib_at_most",
            value=round(max(sample.rss_bytes for sample in samples) / MIB, 1),
            limit=MOST_RSS_MIB,
        ),
    ]
    if len(periods) < LEAST_POINTS:
        note = f"not judged: {len(periods)} whole lives of the writer's DuckDB, {LEAST_POINTS} are needed"
        return [*levels, Figure(name="rss_slope_mb_h", value=None, note=note)]
    slope = theil_sen([(period.at_s / 3600, period.rss_bytes / MB) for period in periods])
    note = f"Theil-Sen over {len(periods)} periods; with a confidence of 95 % {slope.low:.1f} to {slope.high:.1f}"
    limit = MOST_SLOPE_MB_H if minutes >= LONG_MINUTES else None
    return [
        *levels,
        Figure(name="rss_slope_mb_h", value=round(slope.estimate, 2), note=note),
        Figure(name="rss_slope_mb_h_at_least", value=round(slope.low, 2), limit=limit),
    ]


def _highest(
    name: str, samples: Sequence[Sample], minutes: float, count: Callable[[Sample], int], *, more: int
) -> Figure:
    second, last = (max(map(count, part)) for part in _second_and_last_third(samples, minutes))
    return Figure(
        name=f"{name}_at_most", value=last, limit=second + more, note=f"{second} in the second third"
    )


def _lowest(
    name: str, samples: Sequence[Sample], minutes: float, count: Callable[[Sample], int], *, more: int
) -> Figure:
    second, last = (min(map(count, part)) for part in _second_and_last_third(samples, minutes))
    return Figure(
        name=f"{name}_at_least", value=last, limit=second + more, note=f"{second} in the second third"
    )


def _second_and_last_third(
    samples: Sequence[Sample], minutes: float
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    third_s = 60 * minutes / 3
    warm = [sample for sample in samples if sample.at_s >= third_s]
    second = [sample for sample in warm if sample.at_s < 2 * third_s]
    return second, warm[len(second) :]


def _latency(arrivals: Sequence[Arrival], minutes: float) -> list[Figure]:
    seen = latencies(arrivals, from_s=0, until_s=60 * minutes)
    p99s = [
        percentile(latencies(arrivals, from_s=60 * minute, until_s=60 * (minute + 1)), 0.99) or 0.0
        for minute in range(int(minutes))
    ]
    shown = [
        Figure(name="versions_put", value=len(arrivals)),
        Figure(name="versions_never_seen", value=sum(arrival.latency_ms is None for arrival in arrivals)),
        Figure(name="put_to_staging_ms_p50", value=percentile(seen, 0.5)),
        Figure(name="put_to_staging_ms_p99", value=percentile(seen, 0.99)),
    ]
    return [*shown, *_p99_growth(p99s)] if len(p99s) > 1 else shown


def _p99_growth(p99s: Sequence[float]) -> list[Figure]:
    """How a minute's p99 at the end compares with one at the beginning; the first minute is warm-up.

    Of 300 files in a minute it is the fourth slowest, which differs from minute to minute by more than what is looked
    for: so a third of the run is held against a third, by the median of its minutes.
    """
    third = max(1, len(p99s) // 3)
    first, last = median(p99s[1 : third + 1]), median(p99s[-third:])
    limit = MOST_P99_GROWTH if len(p99s) >= LONG_MINUTES else None
    return [
        Figure(name="put_to_staging_ms_p99_of_second_minute", value=p99s[1]),
        Figure(name="put_to_staging_ms_p99_of_last_minute", value=p99s[-1]),
        Figure(
            name="put_to_staging_p99_growth",
            value=round(last / first, 2) if first else None,
            limit=limit,
            note=f"median p99 of a minute: {first:,.0f} ms in the first third, {last:,.0f} in the last",
        ),
    ]
