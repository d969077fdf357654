"""Composition: one process from its settings to its exit status, through any number of terms."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version as installed_version

import structlog

from consumer.board import Board
from consumer.connections import loader_bucket
from consumer.definitions import Definitions, load_definitions
from consumer.election import Election, new_instance_name
from consumer.http import Health, serve
from consumer.metrics import Metrics
from consumer.servers import Servers
from consumer.settings import Settings
from consumer.status import Process
from consumer.stream_state import Role
from consumer.tasks import end
from consumer.term import State, Term
from consumer.wait import Stopping
from feeders.errors import LakeFenced
from feeders.lake import Engine

log = structlog.get_logger()


class Service:
    """The long-lived consumer. `run` returns after SIGTERM, SIGINT or `stop()`, when all is drained."""

    def __init__(self, settings: Settings, *, instance: str | None = None) -> None:
        self.settings = settings
        self.instance = instance or new_instance_name()
        self.metrics = Metrics()
        self._servers = Servers(self.metrics)
        self.state = State()
        self.http_port = 0
        self._started_at = datetime.now(UTC)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Asks for a drain and an end; from the event loop's thread."""
        self._stop.set()

    async def run(
        self, *, handle_signals: bool = True, started: Callable[["Service"], None] = lambda _: None
    ) -> None:
        """Serves until it is asked to stop.

        Raises:
            Misconfigured, LakeMisconfigured, ProjectError: a person has to mend something.
        """
        self.metrics.build.info({"version": installed_version("lotus-lake")})
        definitions = load_definitions(self.settings)
        if handle_signals:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
        async with AsyncExitStack() as held:
            board = Board(self.settings, definitions, self._process)
            held.push_async_callback(board.close)
            self.http_port = await held.enter_async_context(
                serve(
                    self.settings.http_host,
                    self.settings.http_port,
                    registry=self.metrics.registry,
                    live=self._live,
                    ready=self._ready,
                    status=board.document,
                )
            )
            started(self)
            log.info("started", version=installed_version("lotus-lake"), http_port=self.http_port)
            while not self._stop.is_set():
                await self._stand_for_election(definitions, board)
        log.info("stopped")

    async def _stand_for_election(self, definitions: Definitions, board: Board) -> None:
        self.state.stand_by("catalog: not asked yet")
        election = Election(
            self.settings.catalog, self.instance, idle_session_timeout_s=self.settings.lock_timeout_s
        )
        # A name of its own for each term: the last one's thread may still be inside DuckDB.
        instance = f"{self.instance}-{self.state.terms + 1}"
        engine = await self._get_ready(instance)
        try:
            if not await self._or_stop(election.wait_for_lock(self._note_catalog)):
                return
            self.state.terms += 1
            term = Term(
                settings=self.settings,
                definitions=definitions,
                metrics=self.metrics,
                servers=self._servers,
                election=election,
                engine=engine,
                instance=instance,
                state=self.state,
                board=board,
                stop=self._stop,
            )
            await self._or_stop(term.run(), cancel=False)
        except Stopping:
            return
        except LakeFenced as error:
            log.warning("another process writes now", detail=str(error))
        finally:
            await election.release()
            engine.close()

    def _note_catalog(self, reason: str | None) -> None:
        self.state.note(reason)
        if reason is None:
            self._servers.answered("catalog")
        else:
            self._servers.silent("catalog")

    async def _get_ready(self, instance: str) -> Engine:
        """Does beforehand what would only make a takeover last longer, and what no server is needed for."""
        async with loader_bucket(self.settings, self.settings.landing_bucket):
            pass  # it reads botocore's files, and says it if the endpoint is no URL
        return await asyncio.to_thread(Engine, self.settings.lake(instance))

    async def _or_stop(self, work: Coroutine[object, object, object], *, cancel: bool = True) -> bool:
        """Awaits work; with `cancel` it is given up when the service has to stop. Says whether it was done."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop} if cancel else {task}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
                return True
            return False
        finally:
            await end([task, stop])

    def _process(self) -> Process:
        return Process(
            version=installed_version("lotus-lake"),
            instance=self.instance,
            role=Role(self.state.role),
            started_at=self._started_at,
            writer_since=self.state.writer_since,
            not_ready=self.state.not_ready,
        )

    def _live(self) -> Health:
        return Health(ok=True, reason=self.state.role)

    def _ready(self) -> Health:
        waiting = self.state.not_ready
        ok = waiting is None and self.state.role in ("writer", "standby")
        self.metrics.ready.set(1 if ok else 0)
        return Health(ok=ok, reason=waiting or self.state.role)
