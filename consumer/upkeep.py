"""The lake's upkeep as the service does it: what the maintainer sees and does, and the janitor's rounds."""

import asyncio
from collections.abc import Callable

import structlog

from consumer.election import name_of_part
from consumer.metrics import Metrics
from consumer.settings import Settings
from feeders.errors import LakeError
from feeders.health import LakeHealth
from feeders.janitor import Cleaned, clean, find_orphans, janitor_config
from feeders.lake import Lake, LakeConfig
from feeders.maintenance import Done, Expire, Step

log = structlog.get_logger()

FIRST_ROUND_S = 60.0
"""Not at the start of a term: that is when keys wait."""
CLEAN_EVERY_S = 3600.0
ORPHANS_EVERY_ROUNDS = 24
RETRY_S = 600.0


class Watcher:
    """Turns what the maintainer tells into metrics and log lines. On the writer's thread."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tables: set[str] = set()
        for step in ("look", "merge", "rewrite", "expire"):
            # A series from the start on: a rate of the first error can be told.
            metrics.maintenance_errors.labels(step=step)

    def looked(self, health: LakeHealth) -> None:
        """The lake's health was read."""
        metrics = self._metrics
        for table in health.tables:
            name = f"{table.schema}.{table.table}"
            metrics.table_files.labels(table=name).set(table.files)
            metrics.table_small_files.labels(table=name).set(table.small_files + table.files_with_deletes)
            metrics.table_bytes.labels(table=name).set(table.bytes)
        gone = self._tables - (now := {f"{table.schema}.{table.table}" for table in health.tables})
        for name in gone:
            for gauge in (metrics.table_files, metrics.table_small_files, metrics.table_bytes):
                gauge.remove(name)
        self._tables = now
        metrics.snapshots.set(health.snapshots)
        if health.oldest_snapshot_at is not None:
            metrics.oldest_snapshot_at.set(health.oldest_snapshot_at.timestamp())
        metrics.removable_files.set(health.removable_files)

    def done(self, done: Done) -> None:
        """A step was taken."""
        metrics, kind = self._metrics, kind_of(done.step)
        metrics.maintenance_seconds.labels(step=kind).observe(done.seconds)
        for when, count in (("before", done.before), ("after", done.after)):
            if not isinstance(done.step, Expire):
                metrics.maintenance_files.labels(step=kind, when=when).inc(count.number)
                metrics.maintenance_bytes.labels(step=kind, when=when).inc(count.bytes)
        log.info(
            "maintenance",
            step=str(done.step),
            before=done.before.number,
            after=done.after.number,
            bytes_before=done.before.bytes,
            bytes_after=done.after.bytes,
            seconds=round(done.seconds, 4),
        )

    def failed(self, step: Step | None, error: LakeError) -> None:
        """A step failed, or with None the look; the lake is as it was."""
        kind = "look" if step is None else kind_of(step)
        self._metrics.maintenance_errors.labels(step=kind).inc()
        log.warning("maintenance waits", step=str(step or kind), error=str(error))


def kind_of(step: Step) -> str:
    """A step's kind, for labels."""
    return type(step).__name__.lower()


class Janitor:
    """Removes, once an hour, files that no snapshot needs any more, and looks for orphans once a day.

    Without an identity of its own it removes nothing, and says so once.
    """

    def __init__(
        self, settings: Settings, instance: str, metrics: Metrics, *, is_writer: Callable[[], bool]
    ) -> None:
        self._config: LakeConfig | None = None
        if (store := settings.janitor_store) is not None:
            name = name_of_part(instance, "j")
            self._config = janitor_config(settings.lake(name), store, instance=name)
        self._after_s = settings.cleanup_after_hours * 3600
        self._metrics = metrics
        metrics.maintenance_errors.labels(step="clean")
        self._is_writer = is_writer

    async def run(self) -> None:
        """Makes its rounds until cancelled."""
        if self._config is None:
            log.warning(
                "no janitor",
                hint="set LOTUS_JANITOR_S3_ACCESS_KEY_ID and its secret: until then files that nobody needs stay"
                " in the bucket",
            )
            return
        wait_s, rounds = FIRST_ROUND_S, 0
        while True:
            await asyncio.sleep(wait_s)
            try:
                await asyncio.to_thread(
                    self.make_round, self._config, look_for_orphans=not rounds % ORPHANS_EVERY_ROUNDS
                )
                wait_s, rounds = CLEAN_EVERY_S, rounds + 1
            except LakeError as error:
                self._metrics.maintenance_errors.labels(step="clean").inc()
                log.warning("the janitor waits", error=str(error))
                wait_s = RETRY_S

    def make_round(self, config: LakeConfig, *, look_for_orphans: bool) -> Cleaned:
        """Removes what may be removed by now. Blocks. Raises LakeError."""
        lake = Lake(config)
        try:
            with self._metrics.maintenance_seconds.labels(step="clean").time():
                cleaned = clean(lake, after_s=self._after_s, may_go_on=self._is_writer)
            self._metrics.cleaned_files.inc(cleaned.files)
            if cleaned.files:
                log.info("cleaned", files=cleaned.files)
            if look_for_orphans and self._is_writer():
                self._note_orphans(find_orphans(lake, older_than_s=self._after_s))
        finally:
            lake.close()
        return cleaned

    def _note_orphans(self, orphans: list[str]) -> None:
        self._metrics.orphan_files.set(len(orphans))
        if orphans:
            log.info(
                "orphans",
                files=len(orphans),
                first=orphans[0],
                hint="failed transactions leave them; `lotus-lake maintain --remove-orphans` removes them",
            )
