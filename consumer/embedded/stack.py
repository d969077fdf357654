"""The supervisor: SeaweedFS, nats-server and PostgreSQL in one folder, on 127.0.0.1."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from consumer.embedded import nats, postgres, procs, weed
from consumer.embedded.errors import ServerDiedError, StackError
from consumer.embedded.folder import FolderLock, Ports, Secrets, State
from consumer.embedded.identity import Catalog, Endpoints, S3Identity, Tenant
from consumer.embedded.process import Launcher, Server

_START_ATTEMPTS = 3
_STOP_BY = {"postgres": postgres.STOP_BY, "nats": nats.STOP_BY, "weed": weed.STOP_BY}
# What S3 buckets, PostgreSQL roles and NATS subjects all take, with room for "-landing".
_TENANT_NAME = re.compile(r"[a-z][a-z0-9-]{1,45}[a-z0-9]")
_RESERVED_NAMES = frozenset({"postgres", "public", "none", "template0", "template1", "user"})


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a started stack holds."""

    held: FolderLock
    ports: Ports
    secrets: Secrets
    identities: weed.S3Identities
    launcher: Launcher
    postgres: Server
    nats: Server
    weed: Server

    @property
    def servers(self) -> tuple[Server, ...]:
        return self.postgres, self.nats, self.weed


class Stack:
    """The three servers, for one `with` block or from `start` to `stop`; safe to use from several threads.

    Data, ports and secrets live in the folder and are the same at the next start. After a kill -9 of the
    supervisor the next one ends what was left running. `notices` tells what the operator should know about
    the last start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.notices: list[str] = []
        self._lock = threading.RLock()
        self._run: _Run | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the three servers at once and returns when all of them answer.

        Raises:
            FolderInUseError: another live supervisor holds the folder.
            ServerDiedError: a server did not start; none is left running.
        """
        with self._lock:
            if self._run is not None:
                raise StackError(f"the stack in {self.folder} is started already")
            self.notices.clear()
            # Search permission for all: PostgreSQL, which is never root, has its data below.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
            held = FolderLock(self.folder / "lock")
            held.acquire()
            try:
                self._run = self._prepare(held)
            except BaseException:
                held.release()
                raise
            try:
                self._start_all(self._run)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Stops the servers in reverse order and gives the folder back; kills what does not stop in time."""
        with self._lock:
            if self._run is None:
                return
            run, self._run = self._run, None
            try:
                for server in reversed(run.servers):
                    server.stop()
            finally:
                run.launcher.close()
                run.held.release()

    @property
    def weed(self) -> Server:
        """SeaweedFS: master, volume server, filer and S3."""
        return self._started.weed

    @property
    def nats(self) -> Server:
        """The NATS server with JetStream."""
        return self._started.nats

    @property
    def postgres(self) -> Server:
        """The catalog's PostgreSQL."""
        return self._started.postgres

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers answer."""
        port = self._started.ports.get
        return Endpoints(
            s3_url=f"http://127.0.0.1:{port('weed.s3')}",
            filer_http=f"http://127.0.0.1:{port('weed.filer')}",
            filer_grpc=f"127.0.0.1:{port('weed.filer_grpc')}",
            nats_url=f"nats://127.0.0.1:{port('nats.client')}",
            postgres_host="127.0.0.1",
            postgres_port=port("postgres.server"),
        )

    @property
    def admin(self) -> S3Identity:
        """The S3 identity that may do everything, deletes in a lake included."""
        return self._started.identities.admin

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Opens a PostgreSQL superuser's connection, in autocommit mode."""
        run = self._started
        return postgres.connect(run.ports.get("postgres.server"), _superuser_password(run.secrets), database)

    def tenant(self, name: str, landing_bucket: str | None = None, lake_bucket: str | None = None) -> Tenant:
        """Makes what a lake needs (role, database, buckets, policies) unless it is there, and returns it.

        Raises:
            ValueError: the name is not one that S3, PostgreSQL and NATS all take.
        """
        run = self._started
        tenant = self._describe(run, name, landing_bucket or f"{name}-landing", lake_bucket or f"{name}-lake")
        with self.connect() as connection:
            postgres.make_catalog(connection, tenant.catalog)
        landing, lake, known = tenant.landing_bucket, tenant.lake_bucket, run.identities
        for bucket, policy, readers in (
            (landing, weed.landing_policy(landing, known), (known.lander, known.loader)),
            (lake, weed.lake_policy(lake, known), (known.loader, known.janitor)),
        ):
            weed.make_bucket(run.ports, known.admin, bucket, policy, readers)
        tenant.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tenant

    def _describe(self, run: _Run, name: str, landing_bucket: str, lake_bucket: str) -> Tenant:
        if _TENANT_NAME.fullmatch(name) is None or name in _RESERVED_NAMES or name.startswith("pg-"):
            raise ValueError(
                f"tenant name {name!r}: expected 3 to 47 of a-z, 0-9 and '-', a letter first, and no name "
                "that PostgreSQL reserves"
            )
        return Tenant(
            name=name,
            namespace=name,
            landing_bucket=landing_bucket,
            lake_bucket=lake_bucket,
            lake_path=f"s3://{lake_bucket}/data/",
            catalog=Catalog(
                host="127.0.0.1",
                port=run.ports.get("postgres.server"),
                database=name.replace("-", "_"),
                user=name.replace("-", "_"),
                password=run.secrets.derive(f"postgres:tenant:{name}"),
            ),
            lander=run.identities.lander,
            loader=run.identities.loader,
            janitor=run.identities.janitor,
            nats_user=nats.USER,
            nats_password=_nats_password(run.secrets),
            endpoints=self.endpoints,
            http_port=run.ports.get(f"consumer.{name}"),
            spool_dir=self.folder / "spool" / name,
        )

    @property
    def _started(self) -> _Run:
        if self._run is None:
            raise StackError(f"the stack in {self.folder} is not started")
        return self._run

    def _prepare(self, held: FolderLock) -> _Run:
        """Ends what an earlier supervisor left, reads what the folder keeps, and makes the servers."""
        folder, logs = self.folder, self.folder / "logs"
        state = State(folder / "state.json")
        self._end_left_over(state)
        logs.mkdir(exist_ok=True, mode=0o700)
        has_data = any((folder / name).exists() for name in _STOP_BY)
        secrets = Secrets(folder / "secret.json", may_create=not has_data)
        ports = Ports(folder / "ports.json")
        identities = weed.S3Identities.derive(secrets)
        launcher = Launcher()
        init_log = logs / "initdb.log"
        makers = {
            "postgres": lambda: postgres.make_spec(
                folder / "postgres",
                ports,
                _superuser_password(secrets),
                lambda what: launcher.run(what, init_log),
            ),
            "nats": lambda: nats.make_spec(folder / "nats", ports, _nats_password(secrets)),
            "weed": lambda: weed.make_spec(
                folder / "weed",
                ports,
                identities,
                lambda what, done: launcher.run_until(what, logs / "weed.log", done),
            ),
        }
        servers = {
            name: Server(name, make, log=logs / f"{name}.log", launcher=launcher, state=state)
            for name, make in makers.items()
        }
        return _Run(
            held=held, ports=ports, secrets=secrets, identities=identities, launcher=launcher, **servers
        )

    def _end_left_over(self, state: State) -> None:
        for name, process in state.left_over().items():
            if procs.is_running(process):
                self.notices.append(
                    f"{name} (pid {process.pid}), left running by a supervisor that was killed, is ended"
                )
                procs.end(procs.tree(process), _STOP_BY[name])
        state.clear()

    def _start_all(self, run: _Run) -> None:
        give_up = threading.Event()

        def start(server: Server) -> None:
            try:
                self._start_one(run, server, give_up)
            except BaseException:
                give_up.set()
                raise

        with ThreadPoolExecutor(max_workers=len(run.servers), thread_name_prefix="lotus-start") as pool:
            futures = [pool.submit(start, server) for server in run.servers]
            try:
                errors = [error for future in futures if (error := future.exception()) is not None]
            except BaseException:  # Ctrl-C while waiting
                give_up.set()
                raise
        # The first cause, not the "given up" of the servers that had to follow.
        for error in sorted(errors, key=lambda error: not isinstance(error, ServerDiedError)):
            raise error

    def _start_one(self, run: _Run, server: Server, give_up: threading.Event) -> None:
        changed = run.ports.replace_taken(server.name)
        for attempt in range(1, _START_ATTEMPTS + 1):
            for name, (old, new) in changed.items():
                self.notices.append(f"port {old} of {name} is taken by another program: {new} from now on")
            try:
                server.start(give_up=give_up)
            except ServerDiedError as error:
                if not error.address_in_use or attempt == _START_ATTEMPTS:
                    raise
                changed = run.ports.replace_all(server.name)
            else:
                return


def _superuser_password(secrets: Secrets) -> str:
    return secrets.derive("postgres:superuser")


def _nats_password(secrets: Secrets) -> str:
    return secrets.derive("nats")
