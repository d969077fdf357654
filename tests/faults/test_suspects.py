"""A process that is killed from outside while a good file is tried alone: the file is not blamed too soon."""

import io
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from feeders.arrow import pa, pq
from tests.killer import WAITS
from tests.lakes import open_lake
from tests.service import order_key, put
from tests.supervised import Supervisor, record, wait_for_record


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_good_file_outlives_two_kills_while_it_is_tried_alone(tenant: Tenant, tmp_path: Path) -> None:
    body = io.BytesIO()
    pq.write_table(pa.table({"id": [1]}).replace_schema_metadata({"note": WAITS}), body)
    put(tenant, order_key("slow"), body.getvalue())
    supervisor = Supervisor(tenant, tmp_path)
    with supervisor.consumer() as process:
        found = wait_for_record(tenant, lambda found: found.keys, what="the key to be on record")
        process.kill()
    (identity,) = found.keys
    for deaths in (0, 1):
        with supervisor.consumer() as process:
            found = wait_for_record(
                tenant,
                lambda now, last=found: now.writer != last.writer and now.alone == identity,
                what="the suspect to be alone",
            )
            assert found.keys == {identity: deaths}
            process.kill()
    (tmp_path / "go").touch()
    supervisor.run_until_the_queue_is_empty()

    lake = open_lake(tenant, instance="r-test")
    try:
        assert lake.query("SELECT id FROM staging.stg_shopify__orders") == [(1,)]
        assert lake.query("SELECT * FROM meta.feeder_failures") == []
    finally:
        lake.close()
    assert record(tenant).keys == {}
