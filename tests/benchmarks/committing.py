"""A lake with the probe's stream, and the service's own transaction for one small file, timed."""

import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from consumer.embedded.stack import Stack
from feeders.append import apply_batch
from feeders.lake import Lake
from feeders.ledger import LedgerClock
from tests.lakes import lake_config
from tests.probes import load_of_items, start, write_items

ROWS = 20


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What something took: milliseconds in all, and of processor time of this process."""

    wall_ms: float
    cpu_ms: float


class Timer:
    """Takes the time from its making on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def cost(self) -> Cost:
        """What has been taken until now."""
        return Cost(
            wall_ms=1000 * (time.perf_counter() - self._wall), cpu_ms=1000 * (time.process_time() - self._cpu)
        )


class CommittingLake:
    """A lake of its own, in a term of this process."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.lake = Lake(lake_config(stack.tenant(f"t{uuid.uuid4().hex[:12]}")))
        self.epoch = start(self.lake, instance="w-test")
        self.clock = LedgerClock()
        file = write_items(folder / f"{uuid.uuid4().hex}.parquet", range(ROWS))
        self.load = load_of_items(file, "raw/probe/items/a.parquet")

    def commit(self, key: str) -> Cost:
        """One file under a new key, as the writer commits it."""
        load = replace(self.load, version=replace(self.load.version, key=key))
        timer = Timer()
        with self.lake.transaction("1 items") as transaction:
            apply_batch(transaction, [load], epoch=self.epoch, clock=self.clock, open_failures=set())
        return timer.cost()
