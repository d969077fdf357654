"""How long do models take after a commit that changes 1,000 of their keys? Against the same SQL by hand, and a rebuild.

By hand: keys, DELETE and INSERT of the cut-down SELECT for each model, and the cursors, in one transaction on the same
lake. Engine and hand take turns, each after a commit of its own, so the ratio holds whatever else runs.
"""

from pathlib import Path

import pytest

from consumer.embedded.stack import Stack
from tests.benchmarks.figures import scaled
from tests.benchmarks.orders_lake import CHANGED_KEYS, measure, say_times

pytestmark = pytest.mark.bench


@pytest.mark.timeout(3600)
def test_models_after_a_thousand_changed_keys(stack: Stack, bench_scale: float, tmp_path: Path) -> None:
    sizes = [scaled(rows, bench_scale, least=2 * CHANGED_KEYS) for rows in (10_000, 1_000_000)]
    say_times([measure(stack, f"bench{rows}", rows=rows, folder=tmp_path) for rows in sizes])
