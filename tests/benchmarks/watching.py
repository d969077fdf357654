"""An independent reader in a process of its own: it shares no GIL with the landing, and no instance with a writer."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self, cast

import nats
from nats.aio.msg import Msg

from consumer.demo import SALES_STREAMS, Put
from consumer.embedded.identity import Tenant
from consumer.events import KeyEvent
from consumer.observer import ObjectTag, Observer
from feeders.lake import LakeConfig
from tests.helpers import wait_until
from tests.lakes import lake_config

_ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Publication:
    """When, on the wall clock in seconds, a way in made the key event of an object version, and it was published."""

    made_at: float
    published_at: float


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """When, on the wall clock in seconds, an object version was in the queue, in staging, and in fct_sales.

    `queued` is None where nobody published the key: what was loaded by hand.
    """

    queued: Publication | None
    in_staging: float
    in_fct: float | None


@dataclass(frozen=True, kw_only=True)
class _Queue:
    """The queue whose publications are heard."""

    url: str
    user: str
    password: str = field(repr=False)
    subjects: str


class Watch:
    """The process, for a `with` block."""

    def __init__(self, tenant: Tenant) -> None:
        queue = _Queue(
            url=tenant.endpoints.nats_url,
            user=tenant.nats_user,
            password=tenant.nats_password,
            subjects=f"{tenant.namespace}.keys.>",
        )
        context = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = context.Pipe()
        config = lake_config(tenant, instance="r-bench")
        self._process = context.Process(target=_run, args=(config, queue, self._theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        self._ask([])  # it hears and looks from now on
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def wait_for(self, puts: Iterable[Put], *, within_s: float) -> Mapping[ObjectTag, Sighting]:
        """Waits until all of these are visible, in staging and of sales in fct_sales too, but no longer than this.

        Returns:
            What was seen; a tag that is missing was not.
        """
        missing = {put.tag: put for put in puts}
        found: dict[ObjectTag, Sighting] = {}
        deadline = time.monotonic() + within_s

        def all_seen_or_late() -> bool:
            for tag, sighting in zip(list(missing), self._ask(list(missing)), strict=True):
                if sighting is not None:
                    found[tag] = sighting
                if is_seen(missing[tag], sighting):
                    del missing[tag]
            return not missing or time.monotonic() > deadline

        wait_until(all_seen_or_late, timeout_s=within_s + _ANSWER_TIMEOUT_S, what="the reader's answers")
        return found

    def _ask(self, tags: Sequence[ObjectTag]) -> list[Sighting | None]:
        self._pipe.send(tags)
        if not self._pipe.poll(_ANSWER_TIMEOUT_S):
            raise AssertionError(f"the reader's process did not answer within {_ANSWER_TIMEOUT_S:g} s")
        answer = cast("list[Sighting | None] | str", self._pipe.recv())
        if isinstance(answer, str):
            raise AssertionError(f"the reader failed: {answer}")
        return answer


def is_seen(put: Put, sighting: Sighting | None) -> bool:
    """Says whether a PUT was seen as far as it has to be: in staging, and of sales in fct_sales too."""
    return sighting is not None and (put.stream not in SALES_STREAMS or sighting.in_fct is not None)


def _run(config: LakeConfig, queue: _Queue, pipe: Connection) -> None:
    asyncio.run(_serve(config, queue, pipe))


async def _serve(config: LakeConfig, queue: _Queue, pipe: Connection) -> None:
    """Notes what is published and what becomes visible, and answers what it saw of the tags it is asked for."""
    queued: dict[ObjectTag, Publication] = {}

    async def note(message: Msg) -> None:
        now = time.time()
        event = KeyEvent.from_json(message.data)
        publication = Publication(made_at=event.sent_at.timestamp(), published_at=now)
        queued.setdefault((event.key, event.etag or ""), publication)

    client = await nats.connect(queue.url, user=queue.user, password=queue.password)
    await client.subscribe(queue.subjects, cb=note)
    await client.flush()
    observer = Observer(config)
    observer.start()
    while True:
        tags = cast("Sequence[ObjectTag]", await asyncio.to_thread(pipe.recv))
        if observer.error is not None:
            pipe.send(f"{type(observer.error).__name__}: {observer.error}")
        else:
            pipe.send([_sighting(observer, queued, tag) for tag in tags])


def _sighting(observer: Observer, queued: Mapping[ObjectTag, Publication], tag: ObjectTag) -> Sighting | None:
    seen = observer.seen(tag)
    if seen is None:
        return None
    return Sighting(queued=queued.get(tag), in_staging=seen.in_staging, in_fct=seen.in_fct)
