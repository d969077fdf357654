"""The service's own transactions without the service: what a file costs at least, right after its PUT."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from consumer.demo import Put
from consumer.embedded.identity import Tenant
from consumer.landing.generate import LandingFile
from consumer.objects import Bucket
from feeders.append import apply_batch
from feeders.epoch import Epoch
from feeders.lake import Lake
from feeders.ledger import LedgerClock
from feeders.transform import Transforms
from feeders.work import Load, Outcome
from tests.benchmarks.watching import Sighting, Watch
from tests.lakes import Definitions, lake_config, load_of, start_term
from tests.service import in_landing

SEEN_TIMEOUT_S = 60.0
MEMORY_BYTES = 512 * 1024**2
"""As the service's DuckDB has by default."""


@dataclass(frozen=True, kw_only=True)
class HandPut:
    """One file: its PUT, when that was answered and its two transactions were committed, and when it was seen."""

    put: Put
    answered_at: float
    committed_at: float
    modelled_at: float
    sighting: Sighting


class Hand:
    """A lake with a begun term, and models that are up to date."""

    def __init__(self, lake: Lake, defined: Definitions) -> None:
        self._lake = lake
        self._epoch: Epoch = start_term(lake, defined)
        self._clock = LedgerClock()
        self._transforms = Transforms(defined.models, defined.streams, max_delay_s=0)
        self._transforms.load_behind(lake)
        self.transform()

    def append(self, load: Load) -> None:
        """The service's transaction for one file: rows, ledger and cursor."""
        with self._lake.transaction("1 items") as transaction:
            [applied] = apply_batch(
                transaction, [load], epoch=self._epoch, clock=self._clock, open_failures=set()
            )
        assert applied.outcome is Outcome.LOADED
        self._transforms.changed([load.stream.id])

    def transform(self) -> None:
        """The service's transaction for the models below what changed."""
        if self._transforms.due_in(idle=True) is not None:
            self._transforms.run(self._lake, self._epoch)


@contextmanager
def by_hand(tenant: Tenant, defined: Definitions) -> Generator[Hand]:
    """Opens the tenant's lake and begins a term, for a `with` block in which no consumer runs."""
    lake = Lake(lake_config(tenant, memory_limit_bytes=MEMORY_BYTES))
    try:
        yield Hand(lake, defined)
    finally:
        lake.close()


def load_by_hand(
    tenant: Tenant, defined: Definitions, files: Sequence[LandingFile], watch: Watch, folder: Path
) -> list[HandPut]:
    """Puts files one after the other, does for each at once what the service does, and waits until it is seen.

    The load is planned before the PUT, from the bytes that are put: what is left is the two transactions.
    """

    async def each(bucket: Bucket) -> list[HandPut]:
        return [await _one(bucket, hand, file, defined, watch, folder) for file in files]

    with by_hand(tenant, defined) as hand:
        return in_landing(tenant, tenant.lander, each)


async def _one(
    bucket: Bucket, hand: Hand, file: LandingFile, defined: Definitions, watch: Watch, folder: Path
) -> HandPut:
    planned = load_of(file, defined, folder=folder, bucket=bucket.name)
    started_at = time.time()
    etag = await bucket.put(file.key, file.body)
    answered_at = time.time()
    hand.append(replace(planned, version=replace(planned.version, etag=etag)))
    committed_at = time.time()
    hand.transform()
    modelled_at = time.time()
    put = Put(
        stream=f"{file.source}.{file.stream}", tag=(file.key, etag), rows=file.rows, started_at=started_at
    )
    sighting = watch.wait_for([put], within_s=SEEN_TIMEOUT_S)[put.tag]
    return HandPut(
        put=put,
        answered_at=answered_at,
        committed_at=committed_at,
        modelled_at=modelled_at,
        sighting=sighting,
    )
