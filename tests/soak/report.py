"""What a soak says: a line for each minute, a table of them at the end, a JSON line for each figure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import ceil

from consumer.demo import percentile
from tests.benchmarks.figures import shown
from tests.soak.steadiness import MIB, Figure, latencies
from tests.soak.watching import Arrival, Sample

TABLE_LINES = 30
HEADS = ("minutes", "files", "PUT → staging, p50 ms", "p99 ms", "RSS, MiB", "descriptors", "threads")


def progress(samples: Sequence[Sample], arrivals: Sequence[Arrival], minute: int) -> str:
    """The line of a minute that has just ended; what it put last may not be visible yet."""
    now = samples[-1]
    p50, p99 = _percentiles(arrivals, 60 * (minute - 1), 60 * minute)
    return (
        f"{minute} min: {len(arrivals):,} files, PUT → staging p50 {p50} ms, p99 {p99} ms,"
        f" RSS {now.rss_bytes // MIB} MiB, {now.fds} descriptors, {now.threads} threads"
    )


def rows(samples: Sequence[Sample], arrivals: Sequence[Arrival], minutes: float) -> Iterator[tuple[str, ...]]:
    """The table's rows: one for each minute, or for some of them together."""
    count = ceil(minutes)
    step = ceil(count / TABLE_LINES)
    for first in range(0, count, step):
        last = min(first + step, count)
        from_s, until_s = 60.0 * first, 60.0 * last
        seen = [sample for sample in samples if from_s <= sample.at_s < until_s]
        yield (
            f"{last}" if last == first + 1 else f"{first + 1} to {last}",
            f"{sum(from_s <= arrival.put_at_s < until_s for arrival in arrivals):,}",
            *_percentiles(arrivals, from_s, until_s),
            _range([sample.rss_bytes // MIB for sample in seen]),
            _range([sample.fds for sample in seen]),
            _range([sample.threads for sample in seen]),
        )


def json_line(figure: Figure) -> str:
    """A figure, and whether it is within its limit."""
    return json.dumps({**asdict(figure), "is_kept": figure.is_kept})


def _percentiles(arrivals: Sequence[Arrival], from_s: float, until_s: float) -> tuple[str, str]:
    values = latencies(arrivals, from_s=from_s, until_s=until_s)
    return shown(percentile(values, 0.5)), shown(percentile(values, 0.99))


def _range(values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)}"
