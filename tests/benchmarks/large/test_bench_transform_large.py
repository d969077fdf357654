"""The same with 10 million staging rows, which may take three times as long as 10,000."""

from pathlib import Path

import pytest

from consumer.embedded.stack import Stack
from tests.benchmarks.figures import scaled
from tests.benchmarks.orders_lake import CHANGED_KEYS, measure, say_times

pytestmark = pytest.mark.bench


@pytest.mark.timeout(7200)
def test_models_after_a_thousand_changed_keys(stack: Stack, bench_scale: float, tmp_path: Path) -> None:
    sizes = [scaled(rows, bench_scale, least=2 * CHANGED_KEYS) for rows in (10_000, 10_000_000)]
    say_times([measure(stack, f"bench{rows}", rows=rows, folder=tmp_path) for rows in sizes])
