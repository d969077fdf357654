"""Files land for minutes, or for hours, while one consumer runs: everything comes right, and nothing grows."""

from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from tests.benchmarks.figures import say, say_table
from tests.bucketful import Bucketful, removing_project
from tests.exact import assert_exact
from tests.lakes import lake_config
from tests.processes import RUN, consumer_process
from tests.soak.plan import Plan
from tests.soak.report import HEADS, json_line, progress, rows
from tests.soak.steadiness import figures
from tests.soak.watching import watching

BROKEN = str(Path(__file__).with_name("broken.py"))
SEED = 1


@pytest.mark.soak
def test_the_end_is_like_the_beginning(tenant: Tenant, tmp_path: Path, plan: Plan) -> None:
    """Of nine streams two lose the rows of a deleted object; some objects are overwritten, deleted or broken."""
    bucketful = Bucketful(
        tenant=tenant,
        landing=Landing(seed=SEED, files=None),
        project_dir=removing_project(tmp_path / "project"),
    )
    command = RUN if plan.fault is None else (BROKEN, plan.fault)
    reader = lake_config(tenant, instance="r-soak")
    with consumer_process(
        tenant, tmp_path / "consumer.log", command=command, settings=bucketful.settings()
    ) as consumer:
        consumer.wait_for("writer")
        with watching(consumer, bucketful, reader, plan.record) as watch:
            watch.land(
                60 * plan.minutes,
                each_minute=lambda minute: say(progress(watch.samples, watch.arrivals(), minute)),
            )
            watch.wait_until_all_is_seen()
        found = figures(watch.samples, watch.arrivals(), minutes=plan.minutes)
        say_table(HEADS, rows(watch.samples, watch.arrivals(), plan.minutes))
        for figure in found:
            say(json_line(figure))
        assert_exact(bucketful)
        assert min(bucketful.overwrites, bucketful.deletions, len(bucketful.broken)) > 0
        assert consumer.terminate() == 0, consumer.tail()
    assert not [figure for figure in found if not figure.is_kept]
