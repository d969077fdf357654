"""A landing put through S3 while things break, and the memory of what the lake has to hold because of it."""

import asyncio
import itertools
import random
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from consumer.embedded.identity import Tenant
from consumer.errors import Unavailable
from consumer.landing.generate import Landing, LandingFile
from consumer.landing.write import run_landing
from consumer.objects import Bucket, open_bucket
from consumer.observer import ObjectTag
from consumer.settings import known_variables
from feeders.project import find_project
from feeders.streams import Route
from tests.helpers import wait_until_async
from tests.lakes import Definitions, definitions

PUT_TIMEOUT_S = 60
REMOVING = ("shopify/stg_shopify__orders", "klaviyo/stg_klaviyo__events")
"""The tables whose streams lose the rows of a deleted object, in the project of `removing_project`."""
BROKEN_BODY = b"no Parquet"
BROKEN_REASON = "not_parquet"


@dataclass(frozen=True, kw_only=True)
class Mischief:
    """What else happens during a landing: the chance, for each file of it, that something is deleted or broken.

    Attributes:
        deletes: an object that was loaded is deleted.
        breaks: an object that is no Parquet lands.
        mends: a broken object is overwritten with a whole one.
    """

    deletes: float = 0.06
    breaks: float = 0.04
    mends: float = 0.02


@dataclass(kw_only=True)
class Bucketful:
    """What was put into a tenant's landing bucket so far, and what has to come of it.

    Attributes:
        bodies: the last body of each key that was put; a deleted object of a stream that keeps rows is still here.
        etags: their etags.
        broken: keys of objects that are no Parquet: dead letters have to come of them.
        reasons: of broken keys whose dead letter has another reason than BROKEN_REASON.
        mended: keys that were broken and are whole now.
        removed: keys that were deleted and whose rows have to go.
        kept: keys that were deleted and whose rows have to stay.
        versions: every body of a key that was put, by etag.
        put_at: when the last put of each (key, etag) was begun, on the wall clock in seconds.
        settled: keys that were loaded as they are when `wait_until_loaded` last said so; only they are deleted,
            for what is deleted before it is read leaves no trace to assert.
        project_dir: the project whose `ddl/` says what a deletion means; the checkout's if None.
    """

    tenant: Tenant
    landing: Landing
    project_dir: Path | None = None
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    bodies: dict[str, bytes] = field(default_factory=dict[str, bytes])
    etags: dict[str, str] = field(default_factory=dict[str, str])
    broken: set[str] = field(default_factory=set[str])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    mended: set[str] = field(default_factory=set[str])
    removed: set[str] = field(default_factory=set[str])
    kept: set[str] = field(default_factory=set[str])
    settled: set[str] = field(default_factory=set[str])
    versions: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    put_at: dict[ObjectTag, float] = field(default_factory=dict[ObjectTag, float])
    puts: int = 0
    overwrites: int = 0
    deletions: int = 0

    def __post_init__(self) -> None:
        self.defined: Definitions = definitions(project_dir=self.project_dir)
        self._turns: dict[str, asyncio.Lock] = {}

    def settings(self) -> dict[str, str]:
        """What a consumer of this landing needs besides the tenant's settings."""
        if self.project_dir is None:
            return {}
        # Few keys land here: one that is gone is soon a tenth of its stream's.
        most = {"LOTUS_SWEEP_MAX_REMOVED_PERCENT": "100"}
        return {"LOTUS_PROJECT_DIR": str(self.project_dir)} | (
            most if most.keys() <= known_variables() else {}
        )

    def land(self, files: int, *, rate: float = 20.0, mischief: Mischief | None = None) -> None:
        """Puts the next files of the landing."""
        asyncio.run(self._land(itertools.islice(self.landing, files), rate, mischief))

    def put(self, key: str, body: bytes, *, broken: bool = False) -> None:
        """Puts one object that is not of the landing."""

        async def put() -> None:
            async with self._opened() as bucket:
                await self._put(bucket, key, body, broken=broken)

        asyncio.run(put())

    def delete(self, *keys: str) -> None:
        """Deletes objects. Their rows have to go, or to stay, as their streams say."""

        async def delete() -> None:
            async with self._opened() as bucket:
                for key in keys:
                    await self._delete(bucket, key)

        asyncio.run(delete())

    @contextmanager
    def landing_meanwhile(
        self, files: int, *, rate: float = 10.0, mischief: Mischief | None = None
    ) -> Generator[None]:
        """Lands in a thread while the block runs; the block's end waits for the last file."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self.land(files, rate=rate, mischief=mischief)
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                failed.append(error)

        thread = threading.Thread(target=run, name="landing")
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failed:
            raise failed[0]

    def route(self, key: str) -> Route | None:
        """The stream of a key."""
        return self.defined.streams.route(key)

    def removes(self, key: str) -> bool:
        """Whether the rows of this object go with it."""
        route = self.route(key)
        return route is not None and route.stream.on_delete == "remove"

    def deletable(self) -> Sequence[str]:
        """The keys that may be deleted now; of what sales are made of, only rows that go are told apart."""
        made = self.landing.objects
        return sorted(
            key
            for key in self.settled & made.keys()
            if self.removes(key) or not (made[key].orders or made[key].refunds)
        )

    def note_put(self, key: str, body: bytes, etag: str, *, broken: bool = False) -> None:
        """Hears that this body is the key's from now on."""
        self.puts += 1
        self.overwrites += key in self.bodies
        self.bodies[key], self.etags[key] = body, etag
        self.removed.discard(key)
        self.kept.discard(key)
        if broken:
            self.broken.add(key)
            return
        self.versions.setdefault(key, {})[etag] = body
        if key in self.broken:
            self.broken.remove(key)
            self.mended.add(key)

    def note_loaded(self, versions: Mapping[str, str]) -> None:
        """Hears that these versions, etags by key, are loaded."""
        unchanged = {key for key, etag in versions.items() if self.etags.get(key) == etag}
        self.settled |= unchanged - self.broken - self.kept

    # --- on the landing's event loop ----------------------------------------------------------------------

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Bucket]:
        tenant = self.tenant
        self._turns = {}
        async with open_bucket(
            endpoint=tenant.endpoints.s3_url,
            access_key_id=tenant.lander.access_key_id,
            secret_access_key=tenant.lander.secret_access_key,
            region="us-east-1",
            bucket=tenant.landing_bucket,
        ) as bucket:
            yield bucket

    async def _land(self, files: Iterator[LandingFile], rate: float, mischief: Mischief | None) -> None:
        async with self._opened() as bucket:

            async def put(key: str, body: bytes) -> None:
                await self._put(bucket, key, body)
                if mischief is not None:
                    await self._make_mischief(bucket, key, body, mischief)

            await run_landing(files, put, rate=rate)

    async def _make_mischief(self, bucket: Bucket, key: str, body: bytes, mischief: Mischief) -> None:
        if self.dice.random() < mischief.deletes and (keys := self.deletable()):
            await self._delete(bucket, self.dice.choice(keys))
        if self.dice.random() < mischief.breaks:
            place = key.rpartition("/")[0]
            number = f"{self.puts}_{self.puts}"
            name = f"broken {number}" if "year=" in place else f"2026_07_04_{number}"
            await self._put(bucket, f"{place}/{name}.parquet", BROKEN_BODY, broken=True)
        if self.dice.random() < mischief.mends and (unmended := self._mendable(key)):
            await self._put(bucket, unmended, body)

    def _mendable(self, key: str) -> str | None:
        """A broken object that may become one with the rows of `key`: of the same stream, and none of the sales."""
        route, made = self.route(key), self.landing.objects[key]
        if made.orders or made.refunds:
            return None  # what sales must be is known of the landing's own objects only
        return next((other for other in sorted(self.broken) if self._same_stream(other, route)), None)

    def _same_stream(self, key: str, route: Route | None) -> bool:
        other = self.route(key)
        return other is not None and route is not None and other.stream.id == route.stream.id

    async def _put(self, bucket: Bucket, key: str, body: bytes, *, broken: bool = False) -> None:
        async with self._turn(key):
            self.settled.discard(key)
            began_at = time.time()
            etag = await until_there(lambda: bucket.put(key, body), what="S3 to take a put")
            self.put_at[key, etag] = began_at
            self.note_put(key, body, etag, broken=broken)

    async def _delete(self, bucket: Bucket, key: str) -> None:
        async with self._turn(key):
            if key not in self.settled:
                return  # overwritten while this waited for its turn
            self.settled.discard(key)
            await until_there(lambda: deleted(bucket, key), what="S3 to take a delete")
            self.deletions += 1
            if self.removes(key):
                del self.bodies[key], self.etags[key]
                self.removed.add(key)
            else:
                self.kept.add(key)

    def _turn(self, key: str) -> asyncio.Lock:
        return self._turns.setdefault(key, asyncio.Lock())


async def until_there(request: Callable[[], Awaitable[str]], *, what: str) -> str:
    """Sends a request until S3 is there to answer it."""

    async def once() -> str | None:
        try:
            return await request()
        except Unavailable:
            return None

    answer = await wait_until_async(once, timeout_s=PUT_TIMEOUT_S, what=what)
    assert answer is not None
    return answer


async def deleted(bucket: Bucket, key: str) -> str:
    """Deletes an object; an answer like that of a put."""
    await bucket.delete(key)
    return "deleted"


def removing_project(folder: Path) -> Path:
    """Copies the checkout's project into a folder, and lets a deletion mean something for two of its streams."""
    project = find_project(None)
    shutil.copytree(project.ddl, folder / "ddl")
    shutil.copytree(project.transforms, folder / "transforms")
    for name in REMOVING:
        path = folder / "ddl" / f"{name}.sql"
        text = path.read_text()
        assert "-- on_delete: keep\n" in text, path
        path.write_text(text.replace("-- on_delete: keep\n", "-- on_delete: remove\n"))
    return folder
