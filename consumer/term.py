"""A term: what this process does while it is the lake's one writer.

Everything that a term opens is closed when it ends, in reverse order: first nothing new comes in, then the keys
in work are finished under one deadline, then the writer stops, then the connections close.
"""

import asyncio
import math
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TypeVar

import structlog

from consumer.announcer import Announcer
from consumer.board import Board, TermView
from consumer.broker import Broker
from consumer.connections import broker_config, loader_bucket
from consumer.definitions import Definitions
from consumer.drifting import DriftReport, Growing
from consumer.election import Election, name_of_part
from consumer.errors import Misconfigured, NeedsMending, Unavailable, UnexpectedAnswer
from consumer.events import KeyEvent
from consumer.gaps import Gaps
from consumer.ingress.sweep import Swept, sweep_until_done
from consumer.key import KeyWalk
from consumer.metrics import Metrics
from consumer.model_report import ModelReport
from consumer.notified import Notifications, Place
from consumer.objects import Bucket
from consumer.pauses import Pauses
from consumer.pending import pending_keys
from consumer.servers import Servers
from consumer.service import Services, make_services
from consumer.settings import Settings
from consumer.shares import Shares
from consumer.spool import Spool
from consumer.suspects import Suspects
from consumer.sweeping import Sweeping, make_sweep
from consumer.tailing import make_filer_tail
from consumer.tasks import end
from consumer.upkeep import Janitor, Watcher
from consumer.wait import until_available
from consumer.worker import WorkerConfig, WorkerPool
from feeders.apply import begin_term
from feeders.catalog import end_other_writers
from feeders.epoch import Epoch
from feeders.errors import LakeFenced
from feeders.lake import Engine, Lake
from feeders.maintainer import Maintainer
from feeders.reader import LakeReader
from feeders.streams import StreamId
from feeders.transform import Followed, Transforms
from feeders.verify import Verifier
from feeders.writer import Writer

T = TypeVar("T")
log = structlog.get_logger()

SWEEP_RETRY_S = 5.0
LOOK_EVERY_S = 5.0
LEAST_PATIENCE_S = 2.0


@dataclass(kw_only=True)
class State:
    """What the probes tell: the role, and why the service is not ready, if it is not."""

    role: str = "starting"
    has_written: bool = False
    writer_since: datetime | None = None
    waiting_for: str | None = "starting"
    troubles: dict[str, str] = field(default_factory=dict[str, str])
    terms: int = 0
    drain_until: float = 0.0

    def stand_by(self, reason: str) -> None:
        """Begins to wait for the lock, for a reason that is noted; what troubled the last term is over with it."""
        self.role = "standby"
        self.troubles.clear()
        self.note(reason)

    def note(self, reason: str | None) -> None:
        """Notes what is waited for; None when it came."""
        self.waiting_for = reason

    def note_trouble(self, dependency: str, reason: str | None) -> None:
        """Notes what a dependency gives as trouble at work; None when it works again."""
        if reason is None:
            self.troubles.pop(dependency, None)
        else:
            self.troubles[dependency] = reason

    @property
    def not_ready(self) -> str | None:
        """Why the service is not ready; None if it is."""
        if self.waiting_for is not None:
            return self.waiting_for
        return next((f"{name}: {reason}" for name, reason in self.troubles.items()), None)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term of one process. `run` returns when it was asked to stop, or when another process took over."""

    settings: Settings
    definitions: Definitions
    metrics: Metrics
    servers: Servers
    election: Election
    engine: Engine
    instance: str
    state: State
    board: Board
    stop: asyncio.Event

    async def run(self) -> None:
        """Works until `stop` is set or the lock is lost.

        Raises:
            Misconfigured, LakeMisconfigured, DdlRefused: a person has to mend something.
        """
        settings, definitions = self.settings, self.definitions
        self.state.role = "starting"
        async with AsyncExitStack() as held:
            config = broker_config(settings, self.instance)
            broker = await self._until_available("nats", lambda: Broker.connect(config))
            held.push_async_callback(broker.close)
            gaps = Gaps(
                broker,
                settings.catalog,
                prepare=lambda: self._prepare(broker),
                sweeping=Sweeping(interval_s=settings.sweep_interval_s, metrics=self.metrics),
            )
            await self._until_available("nats", gaps.begin)
            bucket = await held.enter_async_context(loader_bucket(settings, settings.landing_bucket))
            await self._until_available("s3", lambda: self._prove_store(bucket))
            spool = held.enter_context(Spool(settings.spool_dir, settings.spool_max_bytes))
            self._watch_spool(spool)
            # Whoever does not write knows nothing of them: what it knew would look like the present.
            held.callback(self.metrics.end_term)
            announcer = Announcer(broker)
            report = ModelReport(self.metrics, definitions.models)

            def announce(followed: Followed) -> None:
                report.followed(followed)
                announcer.followed(followed)

            transforms = Transforms(
                definitions.models,
                definitions.streams,
                max_delay_s=settings.transform_max_delay_ms / 1000,
                rebuild_share=settings.transform_rebuild_share,
                rebuild_rows=settings.transform_rebuild_rows,
                observe=report.ran,
                announce=announce,
            )
            pauses = Pauses([stream.id for stream in definitions.streams], self.metrics)
            lake, epoch = await self._until_available("lake", lambda: self._begin(transforms, gaps, pauses))
            suspects = Suspects(
                broker,
                writer=self.instance,
                is_writer=lambda: self.election.is_held,
                repair=gaps.queue.repair,
                slots=settings.worker_slots,
            )
            await self._until_available("nats", suspects.begin)
            held.push_async_callback(suspects.close)
            writer = Writer(
                lambda: Lake(replace(settings.lake(self.instance), may_create=False), gaps.catalog.watermark),
                epoch=epoch,
                limits=settings.batch_limits,
                follow_up=transforms,
                upkeep=Maintainer(settings.maintenance_policy, Watcher(self.metrics))
                if settings.maintenance
                else None,
                proof=make_verifier(settings, definitions, transforms, report),
                lake=lake,
                committed=self.metrics.commit_seconds.observe,
            )
            writer.start()
            held.push_async_callback(announcer.close)
            held.push_async_callback(self._close_writer, writer)
            reading = replace(settings.lake(name_of_part(self.instance, "r")), may_create=False)
            reader = LakeReader(lambda: Lake(reading))
            # In a thread: a query of the sweep may hold it.
            held.push_async_callback(asyncio.to_thread, reader.close)
            drift = DriftReport(self.metrics)
            walk = KeyWalk(
                streams=definitions.streams,
                bucket_name=settings.landing_bucket,
                bucket=bucket,
                spool=spool,
                limits=settings.file_limits,
                writer=writer,
                reads=Shares(settings.worker_reads),
                suspects=suspects,
                growing=Growing(
                    streams=definitions.streams,
                    writer=writer,
                    epoch=epoch,
                    max_columns=settings.file_max_columns,
                    report=drift,
                ),
                drift=drift,
            )
            services = make_services(
                settings,
                definitions,
                broker=broker,
                bucket=bucket,
                reader=reader,
                writer=writer,
                pauses=pauses,
                metrics=self.metrics,
                status=self.board.document,
            )
            pool = WorkerPool(
                WorkerConfig(
                    slots=settings.worker_slots,
                    ack_wait_s=settings.ack_wait_s,
                    breaker_keys=settings.breaker_keys,
                    breaker_probe_s=settings.breaker_probe_s,
                ),
                broker=broker,
                walk=walk,
                metrics=self.metrics,
                pauses=pauses,
                term_lasts=lambda: self.election.is_held,
                note_trouble=self._note_trouble,
                repair=gaps.queue.repair,
                replayed=services.replays.settled,
            )
            self.board.begin_term(
                TermView(
                    broker=broker,
                    blocked=pool.breaker.blocked,
                    lost=gaps.sweeping.lost,
                    paused=pauses.in_words,
                )
            )
            held.push_async_callback(self.board.end_term)
            gaps.start_sweeping(is_new_lake=epoch == 1, sweep_at_start=settings.sweep_at_start)
            await self._work(broker, bucket, reader, writer, pool, gaps, services, announcer)

    async def _until_available(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        result = await until_available(
            what, call, note=self.state.note, stop=self.stop, silent=self.servers.silent
        )
        self.servers.answered(*(("postgresql", "s3") if what == "lake" else (what,)))
        return result

    def _note_trouble(self, dependency: str, reason: str | None) -> None:
        self.state.note_trouble(dependency, reason)
        if reason is None:
            self.servers.answered(dependency)
        else:
            self.servers.silent(dependency)

    def _watch_spool(self, spool: Spool) -> None:
        self.metrics.spool_max_bytes.set(spool.max_bytes)
        self.metrics.spool_bytes.set_function(lambda: spool.used_bytes)
        self.metrics.spool_free_bytes.set_function(lambda: free_bytes(spool.directory))

    async def _prepare(self, broker: Broker) -> bool:
        """Sets up js_streams and subscriptions; says whether the queue had to be made."""
        made = await broker.ensure()
        orphans = await broker.subscribe([stream.id for stream in self.definitions.streams])
        if orphans:
            log.warning(
                "subscriptions of no stream", subscriptions=orphans, hint="their keys wait until it is back"
            )
        return made

    async def _prove_store(self, landing: Bucket) -> None:
        """Reads the landing bucket once, and proves that the loader can't delete what the lake refers to."""
        try:
            exists = await landing.exists()
        except NeedsMending as error:
            # At the start that is a wrong key or policy; a service that ran with them waits until they are back.
            if not self.state.has_written:
                raise Misconfigured(str(error), hint=error.hint) from error
            raise
        if not exists:
            raise Unavailable("s3", f"there is no bucket {self.settings.landing_bucket}")
        lake_bucket, _, prefix = self.settings.lake_path.removeprefix("s3://").partition("/")
        async with loader_bucket(self.settings, lake_bucket) as bucket:
            if await bucket.may_delete(f"{prefix}lotus-lake-delete-probe"):
                message = f"the loader {self.settings.s3_access_key_id} may delete objects in {self.settings.lake_path}"
                if not self.settings.loader_may_delete:
                    raise Misconfigured(
                        message,
                        hint="deny it s3:DeleteObject and s3:DeleteObjectVersion by a bucket policy (README, Security);"
                        " LOTUS_LOADER_MAY_DELETE=true accepts that a lost answer to a COMMIT can lose files",
                    )
                log.warning("the loader may delete", detail=message)

    async def _begin(self, transforms: Transforms, gaps: Gaps, pauses: Pauses) -> tuple[Lake, Epoch]:
        def begin() -> tuple[Lake, Epoch]:
            # It may have been lost while something was waited for: then the sessions to end are the new writer's.
            if not self.election.is_held:
                raise LakeFenced("the writer's lock was lost before the term began")
            ended = end_other_writers(self.settings.catalog, instance=self.instance)
            if ended:
                log.info("ended the catalog sessions of the last writer", sessions=ended)
            # A lake that was seen in this catalog is waited for, and not made anew in the midst of its restore.
            config = replace(self.settings.lake(self.instance), may_create=not gaps.catalog.has_mark)
            lake = Lake(config, gaps.catalog.watermark, self.engine)
            try:
                epoch = begin_term(
                    lake,
                    self.definitions.tables,
                    self.definitions.streams,
                    instance=self.instance,
                    version=installed_version("lotus-lake"),
                )
                transforms.load_behind(lake)
                pauses.load(lake)
            except BaseException:
                lake.close()
                raise
            return lake, epoch

        lake, epoch = await asyncio.to_thread(begin)
        self.state.has_written = True
        self.metrics.epoch.set(epoch)
        self.metrics.takeovers.inc()
        log.info("term begins", epoch=epoch)
        return lake, epoch

    async def _work(
        self,
        broker: Broker,
        bucket: Bucket,
        reader: LakeReader,
        writer: Writer,
        pool: WorkerPool,
        gaps: Gaps,
        services: Services,
        announcer: Announcer,
    ) -> None:
        """Runs ingress and workers until the term ends, then drains."""

        async def publish(event: KeyEvent, stream: StreamId | None) -> bool:
            fresh = await broker.publish_key(event, stream)
            self.metrics.events.labels(way=event.found_by, result="new" if fresh else "pending").inc()
            return fresh

        sweep = make_sweep(
            self.settings,
            self.definitions.streams,
            broker=broker,
            bucket=bucket,
            reader=reader,
            publish=publish,
            metrics=self.metrics,
        )

        async def sweep_whole() -> Swept:
            # What it has cached may be of a catalog that is no more.
            await asyncio.to_thread(reader.close)
            return await sweep_until_done(sweep, wait_s=SWEEP_RETRY_S, report=report_sweep)

        ingress = [
            asyncio.create_task(gaps.sweeping.run(sweep_whole), name="sweep"),
            asyncio.create_task(self._look_around(broker, bucket, writer, gaps), name="look around"),
            asyncio.create_task(services.run(), name="services"),
            asyncio.create_task(announcer.run(), name="announcements"),
        ]
        tail = make_filer_tail(
            self.settings, self.definitions.streams, broker, publish, self.metrics, gaps.note
        )
        if tail is not None:
            ingress.append(asyncio.create_task(tail.run(), name="filer tail"))
        if self.settings.notifications:
            notified = Notifications(
                broker,
                Place(bucket=self.settings.landing_bucket, prefix=self.settings.landing_prefix),
                self.definitions.streams,
                publish=publish,
                writer=writer,
                metrics=self.metrics,
                gap=gaps.note,
                repair=gaps.queue.repair,
            )
            ingress.append(asyncio.create_task(notified.run(), name="notifications"))
        if self.settings.maintenance:
            janitor = Janitor(
                self.settings, self.instance, self.metrics, is_writer=lambda: self.election.is_held
            )
            ingress.append(asyncio.create_task(janitor.run(), name="janitor"))
        pulling = asyncio.create_task(pool.run(), name="workers")
        ends = {
            asyncio.create_task(self.stop.wait(), name="stop"),
            asyncio.create_task(self.election.lost(), name="lock"),
            asyncio.ensure_future(asyncio.wrap_future(writer.ended)),
        }
        self.state.role = "writer"
        self.state.writer_since = datetime.now(UTC)
        self.state.note(None)
        self.metrics.is_writer.set(1)
        try:
            await asyncio.wait({*ends, pulling, *ingress}, return_when=asyncio.FIRST_COMPLETED)
            while not any(task.done() for task in (*ends, pulling)) and not any(
                failed(task) for task in ingress
            ):
                waiting = {task for task in (*ends, pulling, *ingress) if not task.done()}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.state.role = "draining"
            self.state.writer_since = None
            self.metrics.is_writer.set(0)
            await end([*ingress, pulling])
            # One deadline for all that is left: keys in work, then the writer's transaction.
            patience_s = self.settings.drain_timeout_s if self.election.is_held else 0.0
            self.state.drain_until = time.monotonic() + patience_s
            left = await pool.drain(patience_s)
            log.info("drained", left_unacked=left)
            await end(ends)
        # The writer's own error first: all who wait for it hear only that it has ended.
        for task in (*ends, *ingress, pulling):
            if failed(task):
                error = task.exception()
                raise (
                    error.exceptions[0]
                    if isinstance(error, BaseExceptionGroup)
                    else error or RuntimeError("no error")
                )

    async def _look_around(self, broker: Broker, bucket: Bucket, writer: Writer, gaps: Gaps) -> None:
        """Looks for gaps, and keeps the queue's gauges and /readyz up to date."""
        while True:
            try:
                await gaps.look(writer)
                self.servers.answered("nats", "catalog")
                async for keys in pending_keys(broker, (each.id for each in self.definitions.streams)):
                    gauge = self.metrics.pending.labels(source=keys.source, stream=keys.stream)
                    gauge.set(keys.waiting + keys.claimed)
                    age = self.metrics.oldest_pending.labels(source=keys.source, stream=keys.stream)
                    age.set_function(partial(age_s, keys.oldest_at))
                if not await bucket.exists():
                    raise Unavailable("s3", f"there is no bucket {bucket.name} any more")
            except (Unavailable, UnexpectedAnswer) as error:
                self.state.note(str(error))
                self.servers.silent(error.dependency if isinstance(error, Unavailable) else "s3")
            else:
                self.state.note(None)
                self.servers.answered("s3")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _close_writer(self, writer: Writer) -> None:
        patience_s = max(LEAST_PATIENCE_S, self.state.drain_until - time.monotonic())
        if not await asyncio.to_thread(writer.close, patience_s):
            log.warning("the writer's transaction did not end in time; its keys come again")


def make_verifier(
    settings: Settings, definitions: Definitions, transforms: Transforms, report: ModelReport
) -> Verifier | None:
    """What proves the models while the service runs; None if that is off."""
    if not settings.transform_verify_interval_s:
        return None
    return Verifier(
        definitions.models,
        definitions.checks,
        report,
        every_s=settings.transform_verify_interval_s,
        sample=settings.transform_verify_keys,
        is_current=transforms.is_current,
        rebuilds=lambda: transforms.rebuilds,
    )


def age_s(since: datetime | None) -> float:
    """Seconds since then, at the time of the scrape: a queue that can't be asked grows older too."""
    return 0.0 if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds())


def free_bytes(folder: Path) -> float:
    """Room on the folder's disk; NaN if it can't be asked, since one gauge must not take the others' page away."""
    try:
        return float(shutil.disk_usage(folder).free)
    except OSError:
        return math.nan


def report_sweep(error: Exception) -> None:
    """Says why a sweep has to begin again."""
    log.warning("sweep waits", error=str(error))


def failed(task: "asyncio.Future[None] | asyncio.Task[None]") -> bool:
    """Says whether a task ended with an error."""
    return task.done() and not task.cancelled() and task.exception() is not None
