"""Consumers of one lake side by side, each behind TCP proxies of its own, and how long a takeover takes."""

import json
import socket
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from consumer.embedded.identity import Tenant
from feeders.lake import Lake
from tests.helpers import wait_until
from tests.lakes import lake_config
from tests.processes import RUN, ConsumerProcess, consumer_process
from tests.proxy import TcpProxy

TAKEOVER_S = 10.0
WAIT_S = 60.0


@dataclass(kw_only=True, eq=False)
class Replica:
    """A place where a consumer runs: its proxies, its settings, and its process, another one after each start."""

    tenant: Tenant
    name: str
    folder: Path
    port: int
    links: Mapping[str, TcpProxy]
    settings: Mapping[str, str]
    command: Sequence[str] = RUN
    starts: int = 0
    running: ExitStack = field(default_factory=ExitStack)
    consumer: ConsumerProcess = field(init=False)

    def start(self) -> None:
        """Starts its consumer, as one of a deployment: with the default timeout of the lock."""
        self.starts += 1
        self.consumer = self.running.enter_context(
            consumer_process(
                self.tenant,
                self.folder / f"{self.name}-{self.starts}.log",
                command=self.command,
                port=self.port,
                settings={**self._through_links(), **self.settings},
            )
        )

    def cut(self) -> None:
        """Its network forwards nothing any more, and nobody is told."""
        for link in self.links.values():
            link.hold()

    def mend(self) -> None:
        """Its network forwards again, also what it held."""
        for link in self.links.values():
            link.release()

    def role(self) -> str:
        """What /livez says: writer, standby, starting, draining; empty while nobody answers."""
        status, text = self.consumer.page("/livez")
        return str(json.loads(text)["reason"]) if status else ""

    def connections(self) -> Mapping[str, int]:
        """How many connections it has opened so far, to each server."""
        return {name: link.connections for name, link in self.links.items()}

    def _through_links(self) -> dict[str, str]:
        at = {name: f"{link.host}:{link.port}" for name, link in self.links.items()}
        return {
            "LOTUS_CATALOG_HOST": self.links["postgres"].host,
            "LOTUS_CATALOG_PORT": str(self.links["postgres"].port),
            "LOTUS_NATS_URL": f"nats://{at['nats']}",
            "LOTUS_S3_ENDPOINT": f"http://{at['s3']}",
            "LOTUS_FILER_GRPC": at["filer"],
            "LOTUS_SPOOL_DIR": str(self.folder / f"spool-{self.name}"),
        }


@dataclass(frozen=True, kw_only=True)
class Takeover:
    """Who writes now, how many seconds after the fault, and what the ledger had of earlier terms then."""

    writer: Replica
    seconds: float
    loads_before: Mapping[int, int]


@contextmanager
def replicas(
    tenant: Tenant, folder: Path, *, count: int, settings: Mapping[str, str] = MappingProxyType({})
) -> Generator[Sequence[Replica]]:
    """Starts so many consumers of a lake; the first one is the writer."""
    with ExitStack() as held:
        team: list[Replica] = []
        for number in range(count):
            replica = held.enter_context(place(tenant, folder, "abc"[number], settings=settings))
            team.append(replica)
            replica.start()
            replica.consumer.wait_for("standby" if number else "writer")
        yield team


@contextmanager
def place(
    tenant: Tenant, folder: Path, name: str, *, settings: Mapping[str, str], command: Sequence[str] = RUN
) -> Generator[Replica]:
    """A place for a consumer, which is not started yet; at the block's end what runs there is killed."""
    at = tenant.endpoints
    targets = {
        "postgres": (at.postgres_host, at.postgres_port),
        "nats": _address(at.nats_url),
        "s3": _address(at.s3_url),
        "filer": _address(f"//{at.filer_grpc}"),
    }
    with ExitStack() as held:
        replica = Replica(
            tenant=tenant,
            name=name,
            folder=folder,
            port=free_port(),
            links={name: held.enter_context(TcpProxy(*target)) for name, target in targets.items()},
            settings=settings,
            command=command,
        )
        held.enter_context(replica.running)
        held.callback(replica.mend)
        yield replica


def take_over(team: Sequence[Replica], fault: Callable[[], None], *, but: Replica) -> Takeover:
    """Brings a fault over the writer, and waits until one of the others is the writer."""
    others = [replica for replica in team if replica is not but]

    def writers() -> list[Replica]:
        return [replica for replica in others if replica.role() == "writer"]

    began_at = time.monotonic()
    fault()
    try:
        [writer] = wait_until(writers, timeout_s=WAIT_S, what="another writer")
    except AssertionError as error:
        for replica in team:
            error.add_note(f"{replica.name}: {replica.consumer.tail()}")
        raise
    seconds = time.monotonic() - began_at
    return Takeover(writer=writer, seconds=seconds, loads_before=loads_of_earlier_terms(writer.tenant))


def loads_of_earlier_terms(tenant: Tenant) -> dict[int, int]:
    """How many entries the ledger has of each term but the present one."""
    lake = Lake(lake_config(tenant, instance="r-terms"))
    try:
        return dict(
            lake.query(
                "SELECT epoch, count(*) FROM meta.feeder_files"
                " WHERE epoch < (SELECT max(epoch) FROM meta.writer_epoch) GROUP BY epoch"
            )
        )
    finally:
        lake.close()


def assert_wrote_nothing_since(takeovers: Sequence[Takeover]) -> None:
    """Asserts that no term has more entries now than when the next one had begun."""
    for takeover in takeovers:
        now = loads_of_earlier_terms(takeover.writer.tenant)
        assert {epoch: now[epoch] for epoch in takeover.loads_before} == takeover.loads_before


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)
