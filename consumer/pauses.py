"""Streams that a person has paused: nothing of them is fetched until he resumes them, and nothing is lost.

The keys of a paused stream stay in the queue; those in work are finished, and those that a fetch was just bringing go
back untried. Replays go on, since a person asks for each of them. The lake has the pauses (`feeders.pauses`): each
term begins with them, whatever became of NATS meanwhile. In memory they are the term's only.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import structlog

from consumer.errors import BadRequest
from consumer.metrics import Metrics
from consumer.pause_request import SCHEMA, PauseRequest, read_pause_request, read_resume_request
from feeders.lake import Transaction
from feeders.pauses import Pause, pause_json, pause_stream, read_pauses, resume_stream
from feeders.reader import Queryable
from feeders.streams import StreamId, StreamTable
from feeders.writer import Writer

log = structlog.get_logger()


class Pauses:
    """Which streams of a term are paused. One event loop, but for `load`."""

    def __init__(self, streams: Iterable[StreamId], metrics: Metrics) -> None:
        self._streams = frozenset(streams)
        self._metrics = metrics
        self._paused: dict[StreamId, Pause] = {}
        self._listeners: list[Callable[[], None]] = []
        self.replace(())

    def load(self, lake: Queryable) -> None:
        """Reads them from the lake, before anybody listens here. From any thread. Raises LakeError."""
        self.replace(read_pauses(lake))
        if self._paused:
            log.info("streams are paused", streams=[str(stream) for stream in self._paused])

    def replace(self, pauses: Iterable[Pause]) -> None:
        """Takes over what the lake says now, and tells who listens."""
        before, self._paused = self._paused, {pause.stream: pause for pause in pauses}
        for stream in self._streams | before.keys() | self._paused.keys():
            gauge = self._metrics.stream_paused.labels(source=stream.source, stream=stream.stream)
            gauge.set(stream in self._paused)
        for changed in self._listeners:
            changed()

    def listen(self, changed: Callable[[], None]) -> None:
        """Has it told in this loop each time that other streams may be paused than before."""
        self._listeners.append(changed)

    def is_paused(self, stream: StreamId | None) -> bool:
        """Says whether a stream's keys have to stay in the queue."""
        return stream in self._paused

    def paused(self) -> tuple[Pause, ...]:
        """The streams that are paused, for who asks how things are."""
        return tuple(self._paused.values())

    def in_words(self) -> dict[StreamId, str]:
        """Who paused which streams, since when and why."""
        return {
            stream: f"by {pause.by} since {pause.since:%Y-%m-%d %H:%M} UTC: {pause.reason}"
            for stream, pause in self._paused.items()
        }


class Pausing:
    """Answers requests to pause and to resume streams, for one term."""

    def __init__(self, *, pauses: Pauses, streams: StreamTable, writer: Writer) -> None:
        self._pauses = pauses
        self._streams = streams
        self._writer = writer

    async def pause(self, payload: bytes) -> dict[str, object]:
        """Pauses a stream, or tells which ones are paused. From the answer on nothing of it is begun.

        Raises:
            BadRequest: there is no such stream, or it is no such request.
            LakeError: the lake does not answer; to be asked again.
        """
        request = read_pause_request(payload)
        if request is None:
            return self._answer(changed=False)
        self._require_known(request.stream, [each.id for each in self._streams])

        def pause(transaction: Transaction) -> bool:
            return pause_stream(transaction, request.stream, by=request.by, reason=request.reason)

        return await self._change("stream paused", request, pause)

    async def resume(self, payload: bytes) -> dict[str, object]:
        """Goes on with a stream, also with one that has left ddl/ meanwhile.

        Raises:
            BadRequest: there is no such stream, or it is no such request.
            LakeError: the lake does not answer; to be asked again.
        """
        request = read_resume_request(payload)
        paused = [pause.stream for pause in self._pauses.paused()]
        self._require_known(request.stream, [*(each.id for each in self._streams), *paused])
        return await self._change(
            "stream resumed", request, lambda transaction: resume_stream(transaction, request.stream)
        )

    async def _change(
        self, event: str, request: PauseRequest, act: Callable[[Transaction], bool]
    ) -> dict[str, object]:
        def change(transaction: Transaction) -> tuple[bool, list[Pause]]:
            changed = act(transaction)
            return changed, read_pauses(transaction)

        future = self._writer.transact(event, change, moves=[request.stream])
        loop = asyncio.get_running_loop()

        def committed(done: "Future[tuple[bool, list[Pause]]]") -> None:
            if not done.cancelled() and done.exception() is None:
                loop.call_soon_threadsafe(self._pauses.replace, done.result()[1])

        # By a callback: it holds also for an asker who was answered meanwhile that it takes too long. And what the
        # lake has, not what was asked for: then a second request mends what an unknown outcome of a first one left.
        future.add_done_callback(committed)
        changed, _ = await asyncio.wrap_future(future)
        if changed:
            log.info(event, stream=str(request.stream), by=request.by, reason=request.reason)
        return self._answer(changed=changed)

    def _answer(self, *, changed: bool) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "changed": changed,
            "paused": [pause_json(pause) for pause in self._pauses.paused()],
        }

    def _require_known(self, stream: StreamId, known: Sequence[StreamId]) -> None:
        if stream not in known:
            names = ", ".join(str(each) for each in known[:20])
            raise BadRequest(
                f"no such stream: {ascii(str(stream))[:300]}", hint=f"there are {names}", code=404
            )
