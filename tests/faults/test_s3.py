"""S3 that errs, breaks off or is slow for a share of its requests: the landing's GETs, and DuckDB's own of the lake."""

import time
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from tests.faults.campaign import RATE, campaign
from tests.faults.record import Book, Fault
from tests.helpers import wait_until
from tests.http_proxy import HttpProxy, Spoil

SPOILS: dict[Spoil, Fault] = {
    "500": Fault.S3_500,
    "503": Fault.S3_503,
    "half": Fault.S3_HALF,
    "slow": Fault.S3_SLOW,
}
SHARES: dict[Spoil, float] = {"500": 0.3, "503": 0.3, "half": 0.15, "slow": 0.6}
FILES = 30
SPOILED = 40


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", SPOILS)
def test_a_share_of_requests_is_spoiled(
    tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book, how: Spoil
) -> None:
    host, _, port = tenant.endpoints.s3_url.removeprefix("http://").partition(":")
    with (
        HttpProxy(host, int(port), seed=13) as proxy,
        campaign(
            tenant, tmp_path, project_dir=project_dir, seed=13, settings={"LOTUS_S3_ENDPOINT": proxy.url}
        ) as run,
    ):
        proxy.spoil(how, share=SHARES[how])
        with run.bucketful.landing_meanwhile(FILES, mischief=run.mischief):
            pass

        def enough() -> bool:
            if proxy.spoiled < SPOILED:
                run.bucketful.land(2, rate=RATE)
            return proxy.spoiled >= SPOILED

        wait_until(enough, timeout_s=240, what=f"{SPOILED} spoiled requests")
        proxy.spoil(None)
        run.recover(time.monotonic())
    run.record(book, SPOILS[how], kills=proxy.spoiled, restarts=0, detail={"requests": proxy.requests})
