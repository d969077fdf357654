"""A file that kills the process: found by trying alone what was in work, and given up, without a human."""

import json
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from tests.killer import KILLS
from tests.lakes import open_lake
from tests.service import order_key, orders, put, put_all
from tests.supervised import Supervisor, record


@pytest.mark.timeout(300)
@pytest.mark.parametrize("good_files", [9, pytest.param(50, marks=pytest.mark.faults)])
def test_one_file_of_many_kills_the_process(tenant: Tenant, tmp_path: Path, good_files: int) -> None:
    put_all(tenant, {order_key(f"good-{number:02}"): orders(number) for number in range(good_files)})
    bad = order_key("good-04-is-not")
    etag = put(tenant, bad, KILLS)
    supervisor = Supervisor(tenant, tmp_path)
    supervisor.run_until_the_queue_is_empty()

    assert supervisor.deaths == 4, "once in company, three times alone"
    lake = open_lake(tenant, instance="r-test")
    try:
        ids = lake.query("SELECT id FROM staging.stg_shopify__orders")
        assert sorted(each for (each,) in ids) == list(range(good_files)), "each good file once"
        failures = lake.query("SELECT key, etag, reason, detail, resolved_at FROM meta.feeder_failures")
    finally:
        lake.close()
    ((key, found_etag, reason, detail, resolved_at),) = failures
    assert (key, found_etag, reason, resolved_at) == (bad, etag, "crashed_process", None)
    assert json.loads(detail)["deaths"] == 3
    assert record(tenant).keys == {}, "a stop in good order leaves no suspects"
