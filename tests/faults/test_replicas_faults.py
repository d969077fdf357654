"""Three replicas, each behind its own proxies; the writer is lost again and again, in each way, while objects land."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGTERM

import pytest

from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from tests.bucketful import Mischief
from tests.faults.record import Book, Fault, Record
from tests.helpers import wait_until
from tests.landed import Bucketful, assert_exact, wait_until_loaded
from tests.replicas import (
    TAKEOVER_S,
    WAIT_S,
    Replica,
    Takeover,
    assert_wrote_nothing_since,
    replicas,
    take_over,
)

LOSSES = 3
FILES_A_LOSS = 40
RATE = 5.0

Loss = tuple[Callable[[Replica], None], Callable[[Replica], None]]
"""How a writer is lost, and how it comes back as a standby."""


def _kill(replica: Replica) -> None:
    replica.consumer.kill()


def _stop(replica: Replica) -> None:
    replica.consumer.pause()


def _go_on(replica: Replica) -> None:
    replica.consumer.resume()


def _cut(replica: Replica) -> None:
    replica.cut()


def _mend(replica: Replica) -> None:
    replica.mend()


def _tell(replica: Replica) -> None:
    replica.consumer.send(SIGTERM)


def _start(replica: Replica) -> None:
    replica.start()


def _end_and_start(replica: Replica) -> None:
    assert replica.consumer.wait_for_end() == 0, replica.consumer.tail()
    replica.start()


WAYS: dict[Fault, Loss] = {
    Fault.WRITER_KILLED: (_kill, _start),
    Fault.WRITER_STOPPED: (_stop, _go_on),
    Fault.WRITER_CUT: (_cut, _mend),
    Fault.WRITER_TOLD: (_tell, _end_and_start),
}


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", WAYS)
def test_a_writer_of_three_is_lost(
    tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book, fault: Fault
) -> None:
    lose, bring_back = WAYS[fault]
    bucketful = Bucketful(
        tenant=tenant,
        landing=Landing(seed=21, files=None, rows=(3, 12)),
        project_dir=project_dir,
        dice=random.Random(21),
    )
    takeovers: list[Takeover] = []
    with replicas(tenant, tmp_path, count=3, settings=bucketful.settings()) as team:
        for _ in range(LOSSES):
            writer = the_one_that_writes(team)
            with bucketful.landing_meanwhile(FILES_A_LOSS, rate=RATE, mischief=Mischief()):
                takeover = take_over(team, lambda lost=writer: lose(lost), but=writer)
                bring_back(writer)
                writer.consumer.wait_for("standby")
            takeovers.append(takeover)
            wait_until_loaded(bucketful)
        the_one_that_writes(team)
        assert_exact(bucketful)
        assert_wrote_nothing_since(takeovers)
    took_s = [takeover.seconds for takeover in takeovers]
    book.write(Record(fault=fault, kills=LOSSES, restarts=LOSSES, files=bucketful.puts, recovery_s=took_s))
    assert max(took_s) < TAKEOVER_S, took_s


def the_one_that_writes(team: Sequence[Replica]) -> Replica:
    """Waits until one is the writer and the others are standbys that have no key in work."""

    def look() -> Replica | None:
        said = {replica.consumer.ready(): replica for replica in team}
        idle = [
            replica
            for replica in team
            if replica.consumer.metric("lotus_lake_is_writer") == 0
            and replica.consumer.metric("lotus_lake_keys_in_work") == 0
        ]
        whole = said.keys() == {(200, "writer"), (200, "standby")} and len(idle) == len(team) - 1
        return said[200, "writer"] if whole and said[200, "writer"] not in idle else None

    writer = wait_until(look, timeout_s=WAIT_S, what="one writer among standbys")
    assert writer is not None
    return writer
