"""Is there a slope? The Theil-Sen estimate, with the interval that Kendall's statistic gives it (Sen, 1968)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

LEAST_POINTS = 5
"""Of four points no slope can be excluded with a confidence of 95 %."""
_Z = 1.96


@dataclass(frozen=True, kw_only=True)
class Slope:
    """A slope, and the interval that holds the true one with a confidence of 95 %.

    The confidence supposes that what the points deviate by from a line is independent from point to point.
    """

    estimate: float
    low: float
    high: float


def theil_sen(points: Sequence[tuple[float, float]]) -> Slope:
    """The median of the slopes between any two points, so a few outliers move nothing.

    Raises:
        ValueError: fewer than LEAST_POINTS, or two at the same place.
    """
    count = len(points)
    if count < LEAST_POINTS or len({x for x, _ in points}) < count:
        message = f"{count} points: at least {LEAST_POINTS}, and each at a place of its own, please"
        raise ValueError(message)
    slopes = sorted((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2))
    spread = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    rank = max(1, math.floor((len(slopes) - spread) / 2))
    return Slope(estimate=median(slopes), low=slopes[rank - 1], high=slopes[-rank])
