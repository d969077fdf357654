"""Ways for staging's rows to lie, and a lake of each that does what the service does."""

import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from consumer.embedded.identity import Tenant
from consumer.objects import Bucket
from feeders.append import apply_batch, delete_rows
from feeders.health import TableHealth, look
from feeders.lake import Lake
from feeders.ledger import LedgerClock
from feeders.maintenance import Policy, maintain_now
from feeders.models import Model
from feeders.rebuild import rebuild
from feeders.streams import Partition, Stream
from feeders.work import Load, Outcome, Removal
from tests.benchmarks.by_hand import MEMORY_BYTES
from tests.lakes import Definitions, lake_config, start_term
from tests.service import in_bucket

TABLE = "staging.stg_shopify__orders"
POLICY = Policy()
DIGEST = "SELECT count(*), bit_xor(hash(each)) FROM ({}) AS each"
"""What stands for the rows of a query, in any order."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way for rows to lie, and the statements that ask for it of a table that is there."""

    name: str
    statements: tuple[str, ...] = ()


LAYOUTS = (
    Layout(name="as they come"),
    Layout(name="by id", statements=(f"ALTER TABLE {TABLE} SET SORTED BY (id ASC)",)),
    Layout(name="by _source_file", statements=(f"ALTER TABLE {TABLE} SET SORTED BY (_source_file ASC)",)),
    Layout(name="by day", statements=(f"ALTER TABLE {TABLE} SET PARTITIONED BY (year, month, day)",)),
)
"""Those that are compared, the present one first. A file of the last one has rows of one day only."""


class Lane:
    """A lake of one layout; `seconds` has how long things took, by what was done."""

    def __init__(self, layout: Layout, tenant: Tenant, defined: Definitions, folder: Path) -> None:
        self.layout = layout
        self.lake = Lake(
            lake_config(
                tenant,
                memory_limit_bytes=MEMORY_BYTES,
                temp_directory=folder / f"{tenant.namespace}-temporary",
            )
        )
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.steps = 0
        self.bytes_written = 0
        self._tenant = tenant
        self._epoch = start_term(self.lake, defined)
        self._clock = LedgerClock()
        for statement in layout.statements:
            self.lake.query(statement)

    def commit(self, loads: Sequence[Load]) -> None:
        """The service's transaction for these files."""
        with self._timed("commit"), self.lake.transaction(f"{len(loads)} items") as transaction:
            applied = apply_batch(
                transaction, loads, epoch=self._epoch, clock=self._clock, open_failures=set()
            )
        assert {each.outcome for each in applied} <= {Outcome.LOADED, Outcome.REPLACED}

    def maintain(self) -> None:
        """All that is due, as by hand. `steps` and `bytes_written` count."""
        before = self._bucket_bytes()
        with self._timed("maintain"):
            self.steps += len(maintain_now(self.lake, POLICY))
        # Nothing is removed from the bucket: what is more there was written.
        self.bytes_written += self._bucket_bytes() - before

    def look_up(self, what: str, query: str, keys: Sequence[int]) -> str:
        """A query for some keys, by name; returns what stands for its rows."""
        with self._timed(what):
            return str(self.lake.query(query, (keys,)))

    def count(self) -> None:
        """Counts all rows."""
        with self._timed("count"):
            self.lake.query(f"SELECT count(*) FROM {TABLE}")

    def rebuild(self, model: Model) -> None:
        """Makes a model anew."""
        with self._timed("rebuild"), self.lake.transaction("rebuild") as transaction:
            rebuild(transaction, model)

    def delete(self, stream: Stream, key: str) -> None:
        """Takes the rows of one source file away, as when it was written again."""
        removal = Removal(
            stream=stream,
            partition=Partition(year=2025, month="01", day="01"),  # is not looked at
            bucket="landing",
            key=key,
            found_by="test",
        )
        with self.lake.transaction("delete") as transaction, self._timed("delete"):
            delete_rows(transaction, [removal])

    def health(self) -> TableHealth:
        """The table's files as they are now."""
        tables = look(self.lake.config.catalog, POLICY.tiers).tables
        return next(each for each in tables if f"{each.schema}.{each.table}" == TABLE)

    def _bucket_bytes(self) -> int:
        async def add_up(bucket: Bucket) -> int:
            return sum([each.size_bytes async for each in bucket.list("")])

        return in_bucket(self._tenant, self._tenant.lake_bucket, self._tenant.loader, add_up)

    @contextmanager
    def _timed(self, what: str) -> Generator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what].append(time.perf_counter() - started)


def in_turn(lanes: Sequence[Lane], turn: int) -> list[Lane]:
    """The lanes, each time another one first."""
    first = turn % len(lanes)
    return [*lanes[first:], *lanes[:first]]


def lookup_of(model: Model) -> str:
    """The model's SELECT for the keys that are bound, as an incremental run has it; all its columns are read."""
    [only] = model.inputs
    assert model.sql.count(only.table) == 1
    restricted = f"(SELECT * FROM {only.table} WHERE {only.restrict_sql})"
    rows = f"{model.sql.replace(only.table, restricted)}\n"
    return f"WITH keys AS (SELECT unnest(?::BIGINT[]) AS key) {DIGEST.format(rows)}"
