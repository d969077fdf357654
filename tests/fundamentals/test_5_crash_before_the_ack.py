"""5. A crash before the ack: the rows are committed, the queue doesn't know it, and they are loaded once."""

import signal
from pathlib import Path

from consumer.embedded.identity import Tenant
from tests.service import keys_in_queue, order_key, orders, put, running_service, service_process

# The consumer as it is, but it dies at once when a COMMIT has succeeded: no ack, no drain, no goodbye.
DIES_AFTER_COMMIT = """
import os, signal
from consumer.cli import main
from feeders import fault
fault.arm(lambda point: os.kill(os.getpid(), signal.SIGKILL) if point == "delivered" else None)
import sys
sys.argv = ["lotus-lake", "run"]
main()
"""


def test_a_crash_between_commit_and_ack_loads_once(tenant: Tenant, tmp_path: Path) -> None:
    impatient = {"LOTUS_ACK_WAIT_S": "4"}  # a claim that is not renewed this long is given to another worker
    key = order_key("one")
    put(tenant, key, orders(1, 2, 3))
    with service_process(tenant, tmp_path / "log", program=("-c", DIES_AFTER_COMMIT), **impatient) as process:
        assert process.wait(timeout=60) == -signal.SIGKILL, (tmp_path / "log").read_text()

    # The message is still there.
    assert keys_in_queue(tenant) == 1

    # The next process gets it again. The ledger, read inside its transaction, says that nothing is left to do.
    with running_service(tenant, **impatient) as service:
        service.wait_for_outcomes(duplicate=1)
        assert service.rows("SELECT id FROM staging.stg_shopify__orders ORDER BY id") == [(1,), (2,), (3,)]
        assert service.rows("SELECT key, action FROM meta.feeder_files") == [(key, "loaded")]
        assert service.outcomes()["loaded"] == 0
    assert keys_in_queue(tenant) == 0
