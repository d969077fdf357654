"""A lake bucket that is full: the consumer waits, says so, and goes on when there is room."""

import random
import time
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.embedded.weed import s3_request
from tests.faults.campaign import campaign
from tests.faults.record import Book, Fault
from tests.faults.weed_shell import enforce_quotas, remove_quota, set_quota
from tests.helpers import wait_until

FILLER_BYTES = 3 * 1024**2
FILES = 24
TIMES = 2
RETRIED = 'lotus_lake_retries_total{cause="s3"}'
RETRIES = 10


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_full_lake_bucket_is_waited_for(
    stack: Stack, tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book
) -> None:
    port = int(tenant.endpoints.s3_url.rpartition(":")[2])
    filler = random.Random(1).randbytes(FILLER_BYTES)
    assert s3_request(port, stack.admin, "PUT", f"/{tenant.lake_bucket}/filler", filler)[0] == 200

    def is_full() -> bool:
        """SeaweedFS counts what a bucket holds only every few seconds."""
        enforce_quotas(stack)
        return s3_request(port, stack.admin, "PUT", f"/{tenant.lake_bucket}/probe", b"x")[0] != 200

    with campaign(tenant, tmp_path, project_dir=project_dir, seed=31) as run:
        for time_ in range(1, TIMES + 1):
            set_quota(stack, tenant.lake_bucket, megabytes=1)
            wait_until(is_full, timeout_s=60, what="the lake bucket to be full")
            with run.bucketful.landing_meanwhile(FILES, mischief=run.mischief):
                wait_until(
                    lambda: "over its quota" in (said := run.consumer.ready())[1] and said[0] == 503,
                    timeout_s=60,
                    what="/readyz to ask whether the bucket is full",
                )
                wait_until(
                    lambda time_=time_: run.consumer.metric(RETRIED) >= RETRIES * time_,
                    timeout_s=60,
                    what="keys to be given back",
                )
            remove_quota(stack, tenant.lake_bucket)
            run.recover(time.monotonic())
    run.record(book, Fault.LAKE_FULL, kills=TIMES, restarts=0)
