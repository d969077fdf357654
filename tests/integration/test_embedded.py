"""The supervisor of the embedded servers: what every other test stands on."""

import http.client
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
import pytest

from consumer.embedded import procs, weed
from consumer.embedded.errors import FolderInUseError, ServerDiedError, StackError
from consumer.embedded.folder import Ports
from consumer.embedded.identity import S3Identity, Tenant
from consumer.embedded.stack import Stack
from tests.helpers import wait_until

Request = Callable[..., int]


def _port(stack: Stack) -> int:
    return int(stack.endpoints.s3_url.rpartition(":")[2])


@pytest.fixture
def request_as(stack: Stack) -> Request:
    """Sends an S3 request as someone; returns the status."""

    def send(who: S3Identity, method: str, path: str, body: bytes = b"") -> int:
        return weed.s3_request(_port(stack), who, method, path, body)[0]

    return send


def _servers(stack: Stack) -> dict[str, psutil.Process]:
    return {server.name: psutil.Process(server.pid) for server in (stack.weed, stack.nats, stack.postgres)}


def _with_children(stack: Stack) -> list[psutil.Process]:
    return [each for root in _servers(stack).values() for each in (root, *root.children(recursive=True))]


# Addresses and files


def test_every_listener_is_on_loopback(stack: Stack) -> None:
    listeners = {(each.server, each.local) for each in _sockets(stack) if each.listens}
    assert listeners == {(name, "127.0.0.1") for name in ("weed", "nats-server", "postgres")}


def test_nothing_talks_to_another_machine(stack: Stack) -> None:
    assert {each.remote for each in _sockets(stack)} <= {None, "127.0.0.1"}
    assert "-master.telemetry=false" in _servers(stack)["weed"].cmdline()


class _Socket(NamedTuple):
    server: str
    local: str
    remote: str | None
    listens: bool


def _sockets(stack: Stack) -> Iterator[_Socket]:
    for process in _with_children(stack):
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's workers come and go
            name = process.name()
            for each in process.net_connections(kind="inet"):
                if not each.laddr:
                    continue  # made, and not bound yet
                remote = each.raddr.ip if each.raddr else None
                datagrams = each.type == socket.SOCK_DGRAM and remote is None
                yield _Socket(name, each.laddr.ip, remote, datagrams or each.status == psutil.CONN_LISTEN)


def test_files_with_secrets_are_the_owners_alone(stack: Stack, tenant: Tenant) -> None:
    known = [tenant.loader.secret_access_key, tenant.nats_password, tenant.catalog.password]
    known.append(json.loads((stack.folder / "secret.json").read_text())["secret"])
    for path in (path for path in stack.folder.rglob("*") if path.is_file()):
        if any(secret.encode() in path.read_bytes() for secret in known):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    commands = " ".join(" ".join(process.cmdline()) for process in _servers(stack).values())
    assert not any(secret in commands for secret in known)
    assert not any(secret in repr(tenant) for secret in known)


def test_the_servers_take_nothing_from_our_environment(stack: Stack) -> None:
    for process in _servers(stack).values():
        assert not {name for name in process.environ() if name.startswith(("AWS_", "WEED_", "PG", "LOTUS_"))}


# S3: who may do what (design D16)


def test_the_lander_owns_landing(tenant: Tenant, request_as: Request) -> None:
    key = f"/{tenant.landing_bucket}/raw/a"
    assert request_as(tenant.lander, "PUT", key, b"1") == 200
    assert request_as(tenant.lander, "GET", key) == 200
    assert request_as(tenant.lander, "GET", f"/{tenant.landing_bucket}?list-type=2") == 200
    assert request_as(tenant.lander, "DELETE", key) == 204
    assert request_as(tenant.lander, "PUT", f"/{tenant.lake_bucket}/data/a", b"1") == 403
    assert request_as(tenant.lander, "GET", f"/{tenant.lake_bucket}?list-type=2") == 403


def test_the_loader_reads_landing_and_cannot_touch_it(tenant: Tenant, request_as: Request) -> None:
    key = f"/{tenant.landing_bucket}/raw/a"
    assert request_as(tenant.lander, "PUT", key, b"1") == 200
    assert request_as(tenant.loader, "GET", key) == 200
    assert request_as(tenant.loader, "HEAD", key) == 200
    assert request_as(tenant.loader, "GET", f"/{tenant.landing_bucket}?list-type=2") == 200
    assert request_as(tenant.loader, "PUT", key, b"2") == 403
    assert request_as(tenant.loader, "DELETE", key) == 403
    assert request_as(tenant.loader, "GET", key) == 200


def test_the_loader_writes_the_lake_and_cannot_delete(
    stack: Stack, tenant: Tenant, request_as: Request
) -> None:
    key = f"/{tenant.lake_bucket}/data/a"
    assert request_as(tenant.loader, "PUT", key, b"1") == 200
    assert request_as(tenant.loader, "GET", key) == 200
    assert request_as(tenant.loader, "GET", f"/{tenant.lake_bucket}?list-type=2") == 200
    assert request_as(tenant.loader, "DELETE", key) == 403
    assert request_as(tenant.loader, "DELETE", f"{key}?versionId=null") == 403
    status, answer = _delete_many(stack, tenant.loader, tenant.lake_bucket, "data/a")
    assert status == 403 or "AccessDenied" in answer
    assert request_as(tenant.loader, "GET", key) == 200
    for path in (f"/{tenant.lake_bucket}", f"/{tenant.lake_bucket}?policy"):
        assert request_as(tenant.loader, "DELETE", path) == 403


def test_the_janitor_deletes_in_the_lake_and_nowhere_else(
    stack: Stack, tenant: Tenant, request_as: Request
) -> None:
    for name in ("a", "b"):
        assert request_as(tenant.loader, "PUT", f"/{tenant.lake_bucket}/data/{name}", b"1") == 200
    assert request_as(tenant.lander, "PUT", f"/{tenant.landing_bucket}/raw/a", b"1") == 200
    assert request_as(tenant.janitor, "GET", f"/{tenant.lake_bucket}?list-type=2") == 200
    assert request_as(tenant.janitor, "DELETE", f"/{tenant.lake_bucket}/data/a") == 204
    assert "<Deleted>" in _delete_many(stack, tenant.janitor, tenant.lake_bucket, "data/b")[1]
    for name in ("a", "b"):
        assert request_as(tenant.loader, "GET", f"/{tenant.lake_bucket}/data/{name}") == 404
    assert request_as(tenant.janitor, "PUT", f"/{tenant.lake_bucket}/data/c", b"1") == 403
    assert request_as(tenant.janitor, "DELETE", f"/{tenant.landing_bucket}/raw/a") == 403


def test_who_has_no_key_is_refused(stack: Stack, tenant: Tenant, request_as: Request) -> None:
    assert request_as(tenant.lander, "PUT", f"/{tenant.landing_bucket}/raw/a", b"1") == 200
    for method, path in (
        ("GET", "/"),
        ("GET", f"/{tenant.landing_bucket}"),
        ("GET", f"/{tenant.landing_bucket}/raw/a"),
        ("PUT", f"/{tenant.landing_bucket}/raw/b"),
        ("DELETE", f"/{tenant.landing_bucket}/raw/a"),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", _port(stack))
        connection.request(method, path, body=b"1" if method == "PUT" else None)
        assert connection.getresponse().status == 403, (method, path)
        connection.close()
    forged = S3Identity(name="loader", access_key_id=tenant.loader.access_key_id, secret_access_key="guess")
    assert request_as(forged, "GET", f"/{tenant.landing_bucket}/raw/a") == 403


def _delete_many(stack: Stack, who: S3Identity, bucket: str, *keys: str) -> tuple[int, str]:
    body = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
    return weed.s3_request(
        _port(stack), who, "POST", f"/{bucket}?delete", f"<Delete>{body}</Delete>".encode()
    )


# PostgreSQL and NATS


def _connect(
    tenant: Tenant, *, password: str | None = None, database: str | None = None
) -> psycopg.Connection:
    return psycopg.connect(
        host=tenant.catalog.host,
        port=tenant.catalog.port,
        user=tenant.catalog.user,
        password=password or tenant.catalog.password,
        dbname=database or tenant.catalog.database,
    )


def test_a_tenants_role_owns_its_database_with_the_timeouts(tenant: Tenant) -> None:
    with _connect(tenant) as connection:
        connection.execute("CREATE TABLE t (i int)")
        row = connection.execute(
            "SELECT current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout'),"
            " current_setting('TimeZone'), rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert row == ("10min", "30s", "UTC", False)


def test_postgres_keeps_what_it_commits_and_opens_no_socket_file(stack: Stack) -> None:
    with stack.connect() as admin:
        row = admin.execute(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('max_connections'),"
            " current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        ).fetchone()
    assert row == ("on", "on", "200", "127.0.0.1", "")


def test_postgres_is_never_root_and_holds_no_right_that_it_can_do_without(stack: Stack) -> None:
    status = Path(f"/proc/{stack.postgres.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uids = {int(uid) for uid in fields["Uid"].split()}
    assert uids == {os.geteuid() or pwd.getpwnam("nobody").pw_uid}
    # pytest's folder is its owner's alone: as root, it takes CAP_DAC_READ_SEARCH (bit 2) to get there.
    # (or CAP_DAC_OVERRIDE, bit 1, where a container withholds that one).
    assert int(fields["CapEff"], 16) in ((1 << 2, 1 << 1) if os.geteuid() == 0 else (0,))
    assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16)


def test_postgres_refuses_a_wrong_password_and_a_strangers_database(stack: Stack, tenant: Tenant) -> None:
    other = stack.tenant(f"{tenant.name}-b")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        _connect(tenant, password="guess")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        _connect(tenant, database=other.catalog.database)


def test_nats_demands_the_password_and_takes_8_mb(stack: Stack, tenant: Tenant) -> None:
    address = ("127.0.0.1", int(stack.endpoints.nats_url.rpartition(":")[2]))

    def greet(password: str) -> tuple[dict[str, object], bytes]:
        options = json.dumps({"user": tenant.nats_user, "pass": password, "verbose": False})
        with socket.create_connection(address) as connection, connection.makefile("rb") as lines:
            info = json.loads(lines.readline().removeprefix(b"INFO "))
            connection.sendall(f"CONNECT {options}\r\nPING\r\n".encode())
            return info, lines.readline()

    info, answer = greet(tenant.nats_password)
    assert answer == b"PONG\r\n"
    assert info["max_payload"] == 8 * 1024 * 1024
    assert info["jetstream"] is True
    assert b"Authorization Violation" in greet("guess")[1]


# Tenants


def test_a_tenant_is_made_once_and_stays_itself(stack: Stack, tenant: Tenant, request_as: Request) -> None:
    assert request_as(tenant.loader, "PUT", f"/{tenant.lake_bucket}/data/a", b"1") == 200
    assert stack.tenant(tenant.name) == tenant
    assert request_as(tenant.loader, "GET", f"/{tenant.lake_bucket}/data/a") == 200
    assert tenant.env()["LOTUS_LAKE_PATH"] == f"s3://{tenant.lake_bucket}/data/"


def test_the_buckets_of_a_tenant_can_be_named(stack: Stack, request_as: Request) -> None:
    tenant = stack.tenant("lake", landing_bucket="landing", lake_bucket="lake")
    assert (tenant.landing_bucket, tenant.lake_path) == ("landing", "s3://lake/data/")
    assert request_as(tenant.loader, "PUT", "/lake/data/a", b"1") == 200
    assert request_as(tenant.loader, "DELETE", "/lake/data/a") == 403


@pytest.mark.parametrize(
    "name", ["", "a", "A-b", "a_b", "postgres", "pg-x", "a b", "a.b", "-ab", "ab-", "x" * 48]
)
def test_a_name_that_not_every_server_takes_is_refused(stack: Stack, name: str) -> None:
    with pytest.raises(ValueError, match="tenant name"):
        stack.tenant(name)


def test_more_than_a_hundred_buckets_fit(stack: Stack, request_as: Request) -> None:
    def make_and_use(number: int) -> None:
        tenant = stack.tenant(f"crowd-{number}")
        assert request_as(tenant.lander, "PUT", f"/{tenant.landing_bucket}/raw/a", b"1") == 200
        assert request_as(tenant.loader, "PUT", f"/{tenant.lake_bucket}/data/a", b"1") == 200

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(make_and_use, range(52)))


# One server at a time


@pytest.fixture(scope="module")
def unsteady_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose servers the tests below may take down."""
    with Stack(tmp_path_factory.mktemp("unsteady")) as stack:
        yield stack


@pytest.fixture
def own_stack(unsteady_stack: Stack) -> Iterator[Stack]:
    """The same, with all servers up again after each test."""
    yield unsteady_stack
    for server in (unsteady_stack.weed, unsteady_stack.nats, unsteady_stack.postgres):
        server.start()


def test_data_survives_a_kill_of_each_server(own_stack: Stack) -> None:
    tenant = own_stack.tenant("lake")
    endpoints = own_stack.endpoints
    key = f"/{tenant.landing_bucket}/raw/a"
    assert weed.s3_request(_port(own_stack), tenant.lander, "PUT", key, b"1" * 100_000)[0] == 200
    with _connect(tenant) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS i")
    for server in (own_stack.weed, own_stack.nats, own_stack.postgres):
        killed = procs.identify(server.pid)
        assert killed is not None
        family = procs.tree(killed)
        server.kill()
        assert not server.running
        assert not any(procs.is_running(member) for member in family)
        server.start()
        assert server.running
    assert own_stack.endpoints == endpoints
    assert weed.s3_request(_port(own_stack), tenant.lander, "GET", key) == (200, "1" * 100_000)
    assert weed.s3_request(_port(own_stack), tenant.loader, "DELETE", f"/{tenant.lake_bucket}/x")[0] == 403
    with _connect(tenant) as connection:
        assert connection.execute("SELECT i FROM t").fetchone() == (1,)


def test_a_paused_server_answers_nothing_until_it_goes_on(own_stack: Stack) -> None:
    with own_stack.connect() as connection:
        connection.execute("SET statement_timeout = 0")
        own_stack.postgres.pause()
        answered = threading.Event()

        def ask() -> None:
            connection.execute("SELECT 1")
            answered.set()

        asking = threading.Thread(target=ask)
        asking.start()
        assert not answered.wait(0.5)
        own_stack.postgres.resume()
        assert answered.wait(10)
        asking.join()


def test_a_paused_server_can_be_stopped(own_stack: Stack) -> None:
    log = own_stack.postgres.log
    log_from = log.stat().st_size
    for server in (own_stack.weed, own_stack.nats, own_stack.postgres):
        server.pause()
        server.stop()
        assert not server.running
    assert "database system is shut down" in log.read_text()[log_from:]  # asked, not killed


def test_a_server_that_dies_at_its_start_says_why(own_stack: Stack) -> None:
    own_stack.postgres.stop()
    version = own_stack.folder / "postgres/data/PG_VERSION"
    version.write_text("9\n")
    with pytest.raises(ServerDiedError) as error:
        own_stack.postgres.start()
    version.write_text("18\n")
    assert "incompatible with server" in str(error.value)
    assert str(own_stack.folder / "logs/postgres.log") in str(error.value)
    assert not own_stack.postgres.running


def test_a_thread_that_ends_does_not_take_its_servers_along(own_stack: Stack) -> None:
    restarting = threading.Thread(target=own_stack.nats.restart)
    restarting.start()
    restarting.join()
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(own_stack.nats.pid).wait(0.5)
    assert own_stack.nats.running


# The folder: kept, guarded, taken over


def test_the_next_start_finds_ports_keys_and_data(own_stack: Stack) -> None:
    tenant = own_stack.tenant("lake")
    key = f"/{tenant.landing_bucket}/raw/kept"
    assert weed.s3_request(_port(own_stack), tenant.lander, "PUT", key, b"1")[0] == 200
    family = [each.pid for each in _with_children(own_stack)]
    own_stack.stop()
    assert not any(procs.identify(pid) for pid in family)
    own_stack.start()
    assert own_stack.notices == []
    assert own_stack.tenant("lake") == tenant
    assert weed.s3_request(_port(own_stack), tenant.lander, "GET", key) == (200, "1")


def test_a_taken_port_is_replaced_and_named(own_stack: Stack) -> None:
    tenant = own_stack.tenant("lake")
    key = f"/{tenant.landing_bucket}/raw/a"
    assert weed.s3_request(_port(own_stack), tenant.lander, "PUT", key, b"1")[0] == 200
    own_stack.stop()
    names = ("nats.client", "postgres.server", "weed.master", "weed.volume", "weed.s3", "weed.filer_grpc")
    ports = _ports(own_stack)
    with ExitStack() as strangers:
        for name in names:
            strangers.enter_context(socket.create_server(("127.0.0.1", ports[name])))
        own_stack.start()
    for name in names:
        assert f"port {ports[name]} of {name} is taken by another program" in "\n".join(own_stack.notices)
    now = _ports(own_stack)
    assert {name for name in ports if now[name] != ports[name]} == set(names)
    tenant = own_stack.tenant("lake")
    assert weed.s3_request(_port(own_stack), tenant.lander, "GET", key) == (200, "1")
    assert weed.s3_request(_port(own_stack), tenant.lander, "PUT", key, b"2")[0] == 200


def test_a_port_that_is_taken_at_the_last_moment_is_replaced(
    own_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_stack.stop()
    port = _ports(own_stack)["nats.client"]

    def sees_nothing(ports: Ports, prefix: str) -> dict[str, tuple[int, int]]:
        return {}

    monkeypatch.setattr(Ports, "replace_taken", sees_nothing)
    with socket.create_server(("127.0.0.1", port)):
        own_stack.start()
    assert own_stack.notices
    assert _ports(own_stack)["nats.client"] != port


def _ports(stack: Stack) -> dict[str, int]:
    return json.loads((stack.folder / "ports.json").read_text())


def test_ports_are_picked_below_the_range_of_outgoing_connections(tmp_path: Path) -> None:
    lowest, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert Ports(tmp_path / "ports.json").get("weed.s3") < int(lowest)


def test_a_second_supervisor_is_refused(stack: Stack) -> None:
    with pytest.raises(FolderInUseError, match=rf"in use by another supervisor \(pid {os.getpid()}\)"):
        Stack(stack.folder).start()
    assert stack.weed.running
    refused = subprocess.run(_supervisor(stack.folder), capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"pid {os.getpid()}" in refused.stderr


def test_after_a_kill_of_the_supervisor_its_servers_end(own_stack: Stack) -> None:
    own_stack.stop()
    pids = _start_and_kill_supervisor(own_stack.folder)
    for name, number in pids.items():
        wait_until(lambda pid=number: procs.identify(pid) is None, what=f"the end of {name}")
    own_stack.start()


def test_left_over_servers_are_ended_even_if_they_cannot_hear(own_stack: Stack) -> None:
    own_stack.stop()
    pids = _start_and_kill_supervisor(own_stack.folder, pause_servers=True)
    del pids["weed"]  # the kernel kills it at once, which nobody can fail to hear
    assert all(procs.identify(pid) for pid in pids.values())
    own_stack.start()
    assert {notice.split()[0] for notice in own_stack.notices} >= set(pids)
    assert not any(procs.identify(pid) for pid in pids.values())


def test_a_stranger_with_a_left_over_pid_is_left_alone(own_stack: Stack) -> None:
    own_stack.stop()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        left_over = {"weed": {"pid": stranger.pid, "started": "1@earlier"}}
        (own_stack.folder / "state.json").write_text(json.dumps(left_over))
        own_stack.start()
        assert own_stack.notices == []
        assert stranger.poll() is None
        stranger.kill()


def test_a_lost_secret_is_not_replaced_beside_data(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(StackError, match=r"secret\.json is missing"):
        Stack(tmp_path).start()


def test_children_do_not_hold_the_lock(stack: Stack) -> None:
    lock = str(stack.folder / "lock")
    for process in _with_children(stack):
        with suppress(psutil.NoSuchProcess):
            assert lock not in {file.path for file in process.open_files()}


def test_an_interrupted_start_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    with subprocess.Popen(_supervisor(folder), stderr=subprocess.PIPE) as supervisor:
        state = folder / "state.json"
        wait_until(lambda: state.exists() and json.loads(state.read_text()), what="a first server")
        started: dict[str, dict[str, int]] = json.loads(state.read_text())
        supervisor.send_signal(signal.SIGINT)
        supervisor.communicate()
    assert supervisor.returncode != 0
    assert not any(procs.identify(entry["pid"]) for entry in started.values())
    assert json.loads(state.read_text()) == {}


def _supervisor(folder: Path) -> list[str]:
    program = """
        import signal, sys
        from pathlib import Path
        from consumer.embedded.stack import Stack
        # A shell without job control starts what is in the background with this signal ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Stack(Path(sys.argv[1])) as stack:
            print(stack.weed.pid, stack.nats.pid, stack.postgres.pid, flush=True)
            sys.stdin.read()
    """
    return [sys.executable, "-c", textwrap.dedent(program), str(folder)]


def _start_and_kill_supervisor(folder: Path, *, pause_servers: bool = False) -> dict[str, int]:
    """Starts a stack in another process, ends that one with SIGKILL, and returns the servers' pids."""
    with subprocess.Popen(
        _supervisor(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        numbers = [int(pid) for pid in supervisor.stdout.readline().split()]
        pids: dict[str, int] = {}
        pids.update(zip(("weed", "nats", "postgres"), numbers, strict=True))
        if pause_servers:
            for pid in numbers:
                psutil.Process(pid).suspend()
        supervisor.kill()
    return pids
