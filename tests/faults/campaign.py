"""One fault struck again and again at a consumer while a landing goes on, and how long it takes to be whole again."""

import random
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from tests.bucketful import Mischief
from tests.faults.record import Book, Fault, Record
from tests.helpers import wait_until
from tests.landed import Bucketful, assert_exact, wait_until_loaded
from tests.processes import RUN, ConsumerProcess, consumer_process

FILES_AT_FIRST = 24
FILES_A_STRIKE = 18
RATE = 8.0


@dataclass(kw_only=True)
class Campaign:
    """A consumer under load, and the landing that it is held against."""

    bucketful: Bucketful
    consumer: ConsumerProcess
    mischief: Mischief
    recovery_s: list[float] = field(default_factory=list[float])

    @property
    def dice(self) -> random.Random:
        """For what the test itself leaves to chance."""
        return self.bucketful.dice

    def strike(self, fault: Callable[[], object], *, files: int = FILES_A_STRIKE, rate: float = RATE) -> None:
        """Lands files, lets the fault happen after a third of them, and waits until all of them are loaded.

        What is measured is the time from the return of `fault`, when it is over, until nothing is left to do.
        """
        with self.bucketful.landing_meanwhile(files, rate=rate, mischief=self.mischief):
            before = self.bucketful.puts
            wait_until(lambda: self.bucketful.puts >= before + files // 3, timeout_s=60, what="files to land")
            fault()
            over_at = time.monotonic()
        self.recover(over_at)

    def recover(self, over_at: float) -> None:
        """Waits until all is loaded, and notes how long ago the fault was over."""
        try:
            wait_until_loaded(self.bucketful)
        except AssertionError as error:
            error.add_note(self.consumer.tail())
            raise
        self.recovery_s.append(time.monotonic() - over_at)

    def record(
        self,
        book: Book,
        fault: Fault,
        *,
        kills: int,
        restarts: int,
        detail: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Writes what it cost, once the lake was found to be exact."""
        book.write(
            Record(
                fault=fault,
                kills=kills,
                restarts=restarts,
                files=self.bucketful.puts,
                recovery_s=self.recovery_s,
                detail=dict(detail),
            )
        )


@contextmanager
def campaign(
    tenant: Tenant,
    folder: Path,
    *,
    project_dir: Path,
    seed: int,
    command: Sequence[str] = RUN,
    settings: Mapping[str, str] = MappingProxyType({}),
    mischief: Mischief = Mischief(),  # noqa: B008 - frozen
) -> Generator[Campaign]:
    """A consumer that has loaded a first landing; at the block's end the lake is exact, and the consumer lives."""
    bucketful = Bucketful(
        tenant=tenant,
        landing=Landing(seed=seed, files=None, rows=(3, 12)),
        project_dir=project_dir,
        dice=random.Random(seed),
    )
    bucketful.land(FILES_AT_FIRST, rate=0)
    settings = {**bucketful.settings(), **settings}
    with consumer_process(tenant, folder / "consumer.log", command=command, settings=settings) as consumer:
        consumer.wait_for("writer")
        wait_until_loaded(bucketful)
        yield Campaign(bucketful=bucketful, consumer=consumer, mischief=mischief)
        assert_exact(bucketful)
        consumer.wait_for("writer")
        assert consumer.terminate() == 0, consumer.tail()


def hold(seconds: float) -> None:
    """Lets a fault last: its length is the fault itself, so there is no condition to wait for."""
    threading.Event().wait(seconds)
