"""What the figures of a soak say of a process that is steady, and of one that is not."""

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.soak.report import json_line, progress, rows
from tests.soak.steadiness import LONG_MINUTES, MB, figures, whole_periods
from tests.soak.trend import LEAST_POINTS, theil_sen
from tests.soak.watching import Arrival, Sample

LONG, SHORT = 30, 6
TOOTH_S = 100
TOOTH_MB = 80

Change = Callable[[Sample], Sample]


def steady(at_s: int) -> Sample:
    """Of a process that is steady: memory is a sawtooth, and descriptors go up and down."""
    return Sample(
        at_s=at_s,
        rss_bytes=300 * MB + at_s % TOOTH_S * TOOTH_MB * MB // TOOTH_S,
        fds=20 + at_s % 7,
        threads=18,
        opened_at=1000.0 + at_s // TOOTH_S,
    )


def as_it_is(sample: Sample) -> Sample:
    return sample


def samples_of(minutes: int, change: Change = as_it_is) -> list[Sample]:
    """A sample a second."""
    return [change(steady(at_s)) for at_s in range(60 * minutes)]


def arrivals_of(minutes: int, latency_ms: Callable[[float], float] = lambda _: 400.0) -> list[Arrival]:
    """Five files a second, some of which are slow."""
    dice = random.Random(1)
    times = [number / 5 for number in range(300 * minutes)]
    return [
        Arrival(put_at_s=at_s, latency_ms=latency_ms(at_s) * dice.lognormvariate(0, 0.5)) for at_s in times
    ]


def failed(samples: list[Sample], arrivals: list[Arrival], minutes: int) -> set[str]:
    """The names of the figures that are over their limits."""
    return {figure.name for figure in figures(samples, arrivals, minutes=minutes) if not figure.is_kept}


def leaking_fds(every_s: float) -> Change:
    return lambda sample: replace(sample, fds=sample.fds + int(sample.at_s / every_s))


def leaking_threads(every_s: float) -> Change:
    return lambda sample: replace(sample, threads=sample.threads + int(sample.at_s / every_s))


def leaking_mb_h(speed: float) -> Change:
    return lambda sample: replace(sample, rss_bytes=sample.rss_bytes + int(speed * MB * sample.at_s / 3600))


def uneven(sample: Sample) -> Sample:
    """Each DuckDB instance begins a little higher or lower than the one before."""
    offset = random.Random(sample.opened_at).gauss(0, 3)
    return replace(sample, rss_bytes=sample.rss_bytes + int(offset * MB))


def uneven_and_leaking(sample: Sample) -> Sample:
    return uneven(leaking_mb_h(50)(sample))


@pytest.mark.parametrize(
    ("minutes", "change", "expected"),
    [
        (LONG, as_it_is, set[str]()),
        (LONG, uneven, set[str]()),
        (1, leaking_fds(every_s=1), {"fds_at_most", "fds_at_least"}),
        (LONG, leaking_fds(every_s=30), {"fds_at_most", "fds_at_least"}),
        (LONG, leaking_fds(every_s=60), {"fds_at_least"}),
        (1, leaking_threads(every_s=1), {"threads_at_most"}),
        (LONG, leaking_threads(every_s=10), {"threads_at_most"}),
        (LONG, leaking_mb_h(50), {"rss_slope_mb_h_at_least"}),
        (LONG, uneven_and_leaking, {"rss_slope_mb_h_at_least"}),
        (LONG, leaking_mb_h(-50), set[str]()),
        (SHORT, leaking_mb_h(50), set[str]()),
        (1, leaking_mb_h(60_000), {"rss_mib_at_most"}),
    ],
)  # fmt: skip
def test_what_grows_is_over_its_limit(minutes: int, change: Change, expected: set[str]) -> None:
    assert failed(samples_of(minutes, change), arrivals_of(minutes), minutes) == expected


def test_latency_is_held_to_a_limit_in_a_long_run() -> None:
    def slower(at_s: float) -> float:
        return 400 + 400 * at_s / (60 * LONG)

    assert failed(samples_of(LONG), arrivals_of(LONG, slower), LONG) == {"put_to_staging_p99_growth"}
    assert failed(samples_of(SHORT), arrivals_of(SHORT, slower), SHORT) == set()


def test_a_slow_minute_alone_is_no_trend() -> None:
    last_s = 60.0 * (LONG - 1)
    assert (
        failed(samples_of(LONG), arrivals_of(LONG, lambda at_s: 2000 if at_s > last_s else 400), LONG)
        == set()
    )


def test_a_slope_is_told_of_whole_periods_only() -> None:
    """Of a sawtooth that is cut anywhere: the lowest point of each tooth but the first and the last."""
    periods = whole_periods(samples_of(LONG), from_s=650)
    assert [(period.at_s, period.rss_bytes) for period in periods] == [
        (at_s, 300 * MB) for at_s in range(700, 1700, TOOTH_S)
    ]
    closed = [
        replace(sample, opened_at=0.0) if sample.at_s % TOOTH_S < 2 else sample for sample in samples_of(LONG)
    ]
    assert [period.at_s for period in whole_periods(closed, from_s=650)] == list(range(702, 1702, TOOTH_S))
    few = samples_of(LONG_MINUTES, lambda sample: replace(sample, opened_at=1.0))
    [slope] = [each for each in figures(few, [], minutes=LONG_MINUTES) if each.name.startswith("rss_slope")]
    assert slope.value is None
    assert "not judged: 0 whole lives" in slope.note


def test_theil_sen() -> None:
    line = [(float(x), 3.0 * x + 1) for x in range(10)]
    exact = theil_sen(line)
    assert exact.low == exact.estimate == exact.high == pytest.approx(3.0)
    outlier = theil_sen([*line, (10.0, 1000.0)])
    assert outlier.estimate == pytest.approx(3.0)
    # Sen (1968): with a confidence of 95 % the interval holds the true slope.
    dice = random.Random(1)
    held = 0
    for _ in range(400):
        found = theil_sen([(float(x), 3.0 * x + dice.gauss(0, 5)) for x in range(12)])
        held += found.low <= 3.0 <= found.high
    assert 0.93 <= held / 400 <= 0.99
    with pytest.raises(ValueError, match=f"at least {LEAST_POINTS}"):
        theil_sen(line[: LEAST_POINTS - 1])
    with pytest.raises(ValueError, match="a place of its own"):
        theil_sen([(0.0, float(y)) for y in range(10)])


def test_what_is_said() -> None:
    samples, arrivals = samples_of(61), arrivals_of(61)
    arrivals[0] = replace(arrivals[0], latency_ms=None)
    assert progress(samples[:60], arrivals[:300], 1).startswith(
        "1 min: 300 files, PUT → staging p50 408 ms, p99 1,244 ms, RSS"
    )
    said = list(rows(samples, arrivals, 61))
    assert len(said) == 21
    assert said[0] == ("1 to 3", "900", "394", "1,199", "286 to 361", "20 to 26", "18 to 18")
    assert said[-1][:2] == ("61", "300")
    told = [json.loads(json_line(figure)) for figure in figures(samples, arrivals, minutes=61)]
    assert {"name": "versions_never_seen", "value": 1, "limit": None, "note": "", "is_kept": True} in told
    assert list(rows(samples[:60], [], 1)) == [("1", "0", "-", "-", "286 to 331", "20 to 26", "18 to 18")]
