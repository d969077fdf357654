"""Object versions: whatever happens to an object before, while and after it is read, the last version's rows stay.

One consumer for the file. Its way to S3 goes through a proxy, which holds a GET before the server has it, or in the
middle of the answer, while the test does something to the object.
"""

import asyncio
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import pytest

from consumer.broker import Broker
from consumer.connections import broker_config
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.events import KeyEvent
from consumer.objects import Bucket, open_bucket
from feeders.streams import StreamId
from tests.bucketful import removing_project
from tests.helpers import wait_until
from tests.proxy import TcpProxy
from tests.service import RunningService, parquet, running_service

REMOVING = StreamId(source="shopify", stream="orders")
KEEPING = StreamId(source="shopify", stream="customers")
BOTH = pytest.mark.parametrize("stream", [REMOVING, KEEPING], ids=["remove", "keep"])

Entry = tuple[str, str, int]
"""A row of the ledger: action, etag, rows."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One content of an object."""

    body: bytes
    ids: tuple[str, ...]

    def entry(self, action: str, etag: str) -> Entry:
        """What the ledger says when this version is loaded."""
        return action, etag, len(self.ids)


def version(name: str, rows: int) -> Version:
    """A version with so many rows, whose ids begin with its name."""
    ids = tuple(f"{name} {number}" for number in range(rows))
    found = [{"_airbyte_raw_id": each, "id": number} for number, each in enumerate(ids)]
    return Version(body=parquet(found), ids=ids)


class Scene:
    """The consumer, the proxy before its S3, and what the lake says of one key."""

    def __init__(
        self, service: RunningService, s3: TcpProxy, runner: asyncio.Runner, landing: Bucket, broker: Broker
    ) -> None:
        self.service = service
        self.s3 = s3
        self._runner = runner
        self._landing = landing
        self._broker = broker

    def put(self, key: str, what: Version) -> str:
        """Puts a version; returns its etag."""
        return self._runner.run(self._landing.put(key, what.body))

    def delete(self, key: str) -> None:
        self._runner.run(self._landing.delete(key))

    def publish(self, key: str, stream: StreamId, event: Literal["created", "removed"], etag: str) -> None:
        """Publishes an event as if it came late."""
        late = KeyEvent(
            event=event,
            bucket=self.service.tenant.landing_bucket,
            key=key,
            etag=etag,
            found_by="seaweedfs",
            sent_at=datetime(2026, 7, 4, tzinfo=UTC),
        )
        assert self._runner.run(self._broker.publish_key(late, stream))

    def wait_for_events(self, stream: StreamId, count: int) -> None:
        """Waits until the queue has so many events of a stream, those in work included."""
        wait_until(
            lambda: sum(self._runner.run(self._broker.pending(stream))) == count,
            what=f"{count} events in the queue",
        )

    def rows(self, stream: StreamId, key: str) -> list[str]:
        """The raw ids of a key's rows in staging."""
        sql = (
            f"SELECT _airbyte_raw_id FROM staging.stg_{stream.source}__{stream.stream} WHERE _source_file = ?"
        )
        return sorted(str(each) for (each,) in self.service.rows(sql, key))

    def history(self, key: str) -> list[tuple[object, ...]]:
        """What the ledger says of a key, the oldest first."""
        sql = "SELECT action, etag, rows FROM meta.feeder_files WHERE key = ? ORDER BY epoch, loaded_at"
        return self.service.rows(sql, key)

    def cursor(self, stream: StreamId) -> tuple[str, int, int]:
        sql = "SELECT cursor_path, files, rows FROM meta.feeder_cursors WHERE source = ? AND stream = ?"
        [(path, files, rows)] = self.service.rows(sql, stream.source, stream.stream)
        assert isinstance(path, str)
        assert isinstance(files, int)
        assert isinstance(rows, int)
        return path, files, rows

    @contextmanager
    def expecting(
        self, stream: StreamId, key: str, *, loads: Sequence[Version], **outcomes: int
    ) -> Generator[None]:
        """Runs the block, and waits for these outcomes; the cursor then counts these loads more, and nothing waits."""
        path, files, rows = self.cursor(stream)
        with self.service.expecting(**outcomes):
            yield
        self.wait_for_events(stream, 0)
        assert self.cursor(stream) == (
            max(path, key, key=str.encode) if loads else path,
            files + len(loads),
            rows + sum(len(each.ids) for each in loads),
        )

    def assert_holds(
        self, stream: StreamId, key: str, what: Version | None, history: Sequence[Entry]
    ) -> None:
        """Asserts that staging has exactly this version's rows, and what the ledger says."""
        assert self.rows(stream, key) == sorted(what.ids if what else ())
        assert self.history(key) == list(history)


@pytest.fixture(scope="module")
def scene(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    project = removing_project(tmp_path_factory.mktemp("project"))
    tenant = stack.tenant("versions")
    endpoint = urlsplit(tenant.endpoints.s3_url)
    with (
        TcpProxy(str(endpoint.hostname), int(endpoint.port or 0)) as s3,
        running_service(
            tenant, LOTUS_PROJECT_DIR=str(project), LOTUS_S3_ENDPOINT=f"http://{s3.host}:{s3.port}"
        ) as service,
        asyncio.Runner() as runner,
    ):
        held = AsyncExitStack()
        landing = runner.run(held.enter_async_context(landing_of(tenant)))
        broker = runner.run(Broker.connect(broker_config(service.settings, "test")))
        held.push_async_callback(broker.close)
        yield Scene(service, s3, runner, landing, broker)
        runner.run(held.aclose())


def landing_of(tenant: Tenant) -> AbstractAsyncContextManager[Bucket]:
    """The landing bucket as Airbyte reaches it: not through the proxy."""
    return open_bucket(
        endpoint=tenant.endpoints.s3_url,
        access_key_id=tenant.lander.access_key_id,
        secret_access_key=tenant.lander.secret_access_key,
        region="us-east-1",
        bucket=tenant.landing_bucket,
    )


def key_of(stream: StreamId, name: str) -> str:
    return f"raw/{stream.source}/{stream.stream}/year=2026/month=07/day=04/{name}.parquet"


def get_of(name: str) -> bytes:
    """What only the GET of this object has in its head: the landing's puts don't go through the proxy."""
    return f"{name}.parquet HTTP/1.1".encode()


def test_an_answer_s_bytes_and_etag_belong_together_and_the_later_version_follows(scene: Scene) -> None:
    key, a, b = key_of(REMOVING, "overwritten"), version("a", 40), version("b", 3)
    with scene.expecting(REMOVING, key, loads=[a, b], loaded=1, replaced=1):
        held = scene.s3.hold_after(get_of("overwritten"), 900)
        first = scene.put(key, a)
        held.result(30)  # its etag is on this side, and most of its bytes are not
        second = scene.put(key, b)
        scene.s3.release()
    scene.assert_holds(REMOVING, key, b, [a.entry("loaded", first), b.entry("replaced", second)])


def test_a_then_b_then_a_is_two_changes(scene: Scene) -> None:
    key, a, b = key_of(REMOVING, "aba"), version("a", 2), version("b", 5)
    with scene.expecting(REMOVING, key, loads=[a], loaded=1):
        first = scene.put(key, a)
    with scene.expecting(REMOVING, key, loads=[b], replaced=1):
        second = scene.put(key, b)
    with scene.expecting(REMOVING, key, loads=[a], replaced=1):
        assert scene.put(key, a) == first
    history = [a.entry("loaded", first), b.entry("replaced", second), a.entry("replaced", first)]
    scene.assert_holds(REMOVING, key, a, history)


def test_of_versions_that_nobody_read_only_the_last_is_loaded(scene: Scene) -> None:
    key, versions = (
        key_of(REMOVING, "thrice"),
        [version(name, 2 + number) for number, name in enumerate("abc")],
    )
    with scene.expecting(REMOVING, key, loads=versions[-1:], loaded=1, superseded=1, duplicate=1):
        held = scene.s3.hold_before(get_of("thrice"))
        etags = [scene.put(key, each) for each in versions[:1]]
        held.result(30)
        etags += [scene.put(key, each) for each in versions[1:]]
        scene.wait_for_events(REMOVING, 3)
        scene.s3.release()
    scene.assert_holds(REMOVING, key, versions[-1], [versions[-1].entry("loaded", etags[-1])])


@BOTH
def test_an_object_that_is_deleted_while_it_is_read(scene: Scene, stream: StreamId) -> None:
    key, a = key_of(stream, "deleted-in-mid-read"), version("a", 40)
    removes = stream == REMOVING
    with scene.expecting(stream, key, loads=[a], loaded=1, **{"removed" if removes else "kept": 1}):
        held = scene.s3.hold_after(get_of("deleted-in-mid-read"), 900)
        etag = scene.put(key, a)
        held.result(30)
        scene.delete(key)
        scene.s3.release()
    if removes:
        scene.assert_holds(stream, key, None, [a.entry("loaded", etag), ("removed", etag, 0)])
    else:
        scene.assert_holds(stream, key, a, [a.entry("loaded", etag)])


@BOTH
def test_an_object_that_is_deleted_before_it_is_read(
    scene: Scene, stream: StreamId, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, a = key_of(stream, "deleted-unread"), version("a", 2)
    outcomes = {"stale": 1, "absent" if stream == REMOVING else "kept": 1}
    with scene.expecting(stream, key, loads=[], **outcomes):
        with scene.service.expecting(not_yet=1):
            held = scene.s3.hold_before(get_of("deleted-unread"))
            scene.put(key, a)
            held.result(30)
            scene.delete(key)
            scene.s3.release()
        monkeypatch.setattr("consumer.key.YOUNG_S", 0.0)  # a minute later
    scene.assert_holds(stream, key, None, [])


def test_the_same_content_under_two_keys_is_two_objects(scene: Scene) -> None:
    keys, a = [key_of(REMOVING, name) for name in ("same-1", "same-2")], version("same", 3)
    with scene.expecting(REMOVING, keys[1], loads=[a, a], loaded=2):
        etags = [scene.put(key, a) for key in keys]
    assert etags[0] == etags[1]
    for key in keys:
        scene.assert_holds(REMOVING, key, a, [a.entry("loaded", etags[0])])
    sql = "SELECT count(*), count(DISTINCT _source_file) FROM staging.stg_shopify__orders WHERE _airbyte_raw_id = ?"
    assert scene.service.rows(sql, a.ids[0]) == [(2, 2)]


def test_an_object_that_comes_back_is_loaded_and_a_late_event_of_the_first_one_changes_nothing(
    scene: Scene,
) -> None:
    key, a, b = key_of(REMOVING, "back"), version("a", 2), version("b", 3)
    with scene.expecting(REMOVING, key, loads=[a], loaded=1):
        first = scene.put(key, a)
    with scene.expecting(REMOVING, key, loads=[], removed=1):
        scene.delete(key)
    with scene.expecting(REMOVING, key, loads=[], stale=1):
        scene.publish(key, REMOVING, "created", first)
    scene.assert_holds(REMOVING, key, None, [a.entry("loaded", first), ("removed", first, 0)])
    with scene.expecting(REMOVING, key, loads=[b], loaded=1):
        second = scene.put(key, b)
    with scene.expecting(REMOVING, key, loads=[], superseded=1):
        scene.publish(key, REMOVING, "created", first)
    history = [a.entry("loaded", first), ("removed", first, 0), b.entry("loaded", second)]
    scene.assert_holds(REMOVING, key, b, history)


@BOTH
def test_a_deletion_that_is_read_when_the_object_is_there_again_loads_it(
    scene: Scene, stream: StreamId
) -> None:
    key, a, b = key_of(stream, "there-again"), version("a", 2), version("b", 3)
    with scene.expecting(stream, key, loads=[a], loaded=1):
        first = scene.put(key, a)
    with scene.expecting(stream, key, loads=[b], replaced=1, duplicate=1):
        held = scene.s3.hold_before(get_of("there-again"))
        scene.delete(key)
        held.result(30)
        second = scene.put(key, b)
        scene.s3.release()
    with scene.expecting(stream, key, loads=[], superseded=1):
        scene.publish(key, stream, "removed", first)
    scene.assert_holds(stream, key, b, [a.entry("loaded", first), b.entry("replaced", second)])


def test_events_of_one_key_that_come_together_are_walked_one_after_the_other(scene: Scene) -> None:
    """Each version is loaded by the walk that read it; the last one read is the one in staging."""
    key, versions = key_of(REMOVING, "together"), [version(f"v{number}", 1 + number) for number in range(6)]
    before = scene.cursor(REMOVING)
    etags = [scene.put(key, each) for each in versions]
    wait_until(
        lambda: (found := scene.history(key)) and found[-1][1] == etags[-1], timeout_s=60, what="the last one"
    )
    scene.wait_for_events(REMOVING, 0)
    history = scene.history(key)
    assert scene.rows(REMOVING, key) == sorted(versions[-1].ids)
    # No version twice, none before an earlier one.
    assert [etag for _, etag, _ in history] == sorted((str(etag) for _, etag, _ in history), key=etags.index)
    assert len({etag for _, etag, _ in history}) == len(history)
    assert scene.cursor(REMOVING)[1] == before[1] + len(history)
