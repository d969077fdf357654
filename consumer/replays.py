"""Replays: what a request chose is counted, put into the replays' own lane of the queue, and followed to its end."""

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from consumer.errors import BadKeyEvent, BadRequest, LotusError, Unavailable
from consumer.events import Identity, KeyEvent, Replay
from consumer.footers import count_footers
from consumer.replay_request import SCHEMA, read_replay_request, read_status_request
from consumer.selection import Chooser, Chosen
from consumer.tasks import end
from feeders.census import known_rows, rows_in_staging
from feeders.parquet import Limits
from feeders.reader import LakeReader, Queryable
from feeders.streams import Stream, StreamId

log = structlog.get_logger()

FOUND_BY = "replay"
ANSWER_WITHIN_S = 3.0
"""A request is answered after this time at the latest once all is counted; what is not queued yet follows."""
IN_FLIGHT = 256
TRIES, RETRY_S = 30, 2.0
JOBS_KEPT = 100
LOOK_EVERY_S, GRACE_S = 5.0, 0.5
LISTED_MOST = 100_000
WAITING_MOST = 5
"""So many times the keys of the largest request may wait at once."""
NAMES_MOST, NAMES_BYTES_MOST = 100, 64 * 1024

Publish = Callable[[KeyEvent, StreamId | None], Awaitable[bool]]
"""Puts an event into the queue; False if it is there already."""


@dataclass(kw_only=True)
class Job:
    """One request's keys on their way. `waiting` have no verdict yet; `outcomes` counts how the others ended."""

    id: str
    keys: int
    waiting: set[Identity]
    state: str = "queueing"
    queued: int = 0
    already_queued: int = 0
    outcomes: Counter[str] = field(default_factory=Counter[str])
    error: str | None = None
    look_at: float = 0.0

    def settled(self, identity: Identity, outcome: str) -> None:
        """Notes a key's end, if it is one of ours."""
        if identity in self.waiting:
            self.waiting.discard(identity)
            self.outcomes[outcome] += 1
            self.look()

    def look(self) -> None:
        """Notes that all have ended."""
        if self.state == "queued" and not self.waiting:
            self.state = "done"

    def document(self) -> dict[str, object]:
        """How far it is, as JSON."""
        return {
            "id": self.id,
            "state": self.state,
            "keys": self.keys,
            "queued": self.queued,
            "already_queued": self.already_queued,
            "waiting": len(self.waiting),
            "outcomes": dict(self.outcomes),
            "error": self.error,
        }


class Replays:
    """Carries out requests for replays, for one term."""

    def __init__(
        self,
        *,
        chooser: Chooser,
        reader: LakeReader,
        limits: Limits,
        publish: Publish,
        in_queue: Callable[[], Awaitable[set[Identity]]],
    ) -> None:
        self._chooser = chooser
        self._reader = reader
        self._limits = limits
        self._publish = publish
        self._in_queue = in_queue
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def request(self, payload: bytes) -> dict[str, object]:
        """Answers a request for a replay.

        Raises:
            BadRequest: it can't be carried out as it is.
            Unavailable, LakeError: S3 or the lake does not answer.
        """
        started = time.monotonic()
        request = read_replay_request(payload)
        chosen = await self._chooser.choose(request.selection)
        # In a thread: a hundred thousand events take seconds.
        events = await asyncio.to_thread(self._events, chosen, request.asked)
        counted = await self._count(chosen)
        job = Job(id=secrets.token_hex(8), keys=len(events), waiting=set())
        if request.dry_run:
            job.state = "dry_run"
        else:
            await self._hold(len(events))
            log.info("replay", id=job.id, keys=job.keys, by=request.asked.by, reason=request.asked.reason)
            task = self._start(job, events)
            await asyncio.wait({task}, timeout=max(0.5, started + ANSWER_WITHIN_S - time.monotonic()))
        asked = {"by": request.asked.by, "reason": request.asked.reason}
        return {"schema": SCHEMA, **job.document(), "asked": asked, **counted}

    async def status(self, payload: bytes) -> dict[str, object]:
        """Answers how far a request is.

        Raises:
            BadRequest: it is not known, or not any more.
        """
        wanted = read_status_request(payload)
        job = self._jobs.get(wanted)
        if job is None:
            hint = "another process may have become the writer since: keys that were queued are loaded all the same"
            raise BadRequest(f"no replay with the id {wanted} is known here", hint=hint, code=404)
        await self._find_lost([job])
        return {"schema": SCHEMA, **job.document()}

    def settled(self, identity: Identity, outcome: str) -> None:
        """Hears how a replayed key has ended, once it is off the queue."""
        for job in self._jobs.values():
            job.settled(identity, outcome)

    async def _find_lost(self, jobs: Iterable[Job]) -> None:
        """Ends keys that wait and are in the queue no more: it may have been made anew since."""
        now = time.monotonic()
        doubted = [job for job in jobs if job.waiting and job.state != "queueing" and now >= job.look_at]
        if not doubted:
            return
        waiting: set[Identity] = set()
        for job in doubted:
            job.look_at = now + LOOK_EVERY_S
            waiting |= job.waiting
        there = await self._in_queue()
        if len(there) >= LISTED_MOST or waiting <= there:
            return
        await asyncio.sleep(GRACE_S)  # what has just left the queue is told of any moment
        for job in doubted:
            for identity in (waiting - there) & job.waiting:
                job.settled(identity, "lost")

    async def close(self) -> None:
        """Stops queueing; what is queued stays in the queue."""
        await end(self._tasks)

    async def _hold(self, more: int) -> None:
        most = WAITING_MOST * self._chooser.most_keys
        if self._waiting() + more > most:
            # Those of a queue that was lost would wait for ever, if nobody asks how far they are.
            await self._find_lost([*self._jobs.values()])
        waiting = self._waiting()
        if waiting + more > most:
            hint = "ask again when most of them have been loaded"
            message = f"{waiting:,} replayed keys wait and {more:,} would come, expected at most {most:,}"
            raise BadRequest(message, hint=hint, code=429)

    def _waiting(self) -> int:
        return sum(len(job.waiting) for job in self._jobs.values())

    def _events(self, chosen: Chosen, asked: Replay) -> dict[Identity, tuple[KeyEvent, Stream]]:
        """The events of what was found. They name no version: whatever is there is loaded, and one waits at most."""
        events: dict[Identity, tuple[KeyEvent, Stream]] = {}
        unfit: set[str] = set()
        for found in sorted(chosen.found, key=lambda each: each.key):
            try:
                event = KeyEvent(
                    event="created",
                    bucket=self._chooser.bucket.name,
                    key=found.key,
                    found_by=FOUND_BY,
                    sent_at=datetime.now(UTC),
                    replay=asked,
                )
            except BadKeyEvent:
                unfit.add(found.key)
            else:
                events[event.identity()] = event, found.stream
        chosen.found = [found for found in chosen.found if found.key not in unfit]
        chosen.unrouted += sorted(unfit)
        return events

    async def _count(self, chosen: Chosen) -> dict[str, object]:
        staged, missing, known = await asyncio.to_thread(
            self._reader.read, lambda lake: self._read_counts(lake, chosen)
        )
        unread = [(each.key, each.size_bytes) for each in chosen.found if each.key not in known]
        footers = await count_footers(self._chooser.bucket, unread, self._limits)
        names = named([found.key for found in chosen.found])
        return {
            "names": names["names"],
            "truncated": names["truncated"],
            "rows_in_staging": staged,
            "rows_in_files": sum(known.values()) + footers.rows,
            "files_not_counted": footers.not_counted,
            "missing": named(chosen.missing) | {"rows_in_staging": missing},
            "unrouted": named(chosen.unrouted),
            "without_object": chosen.without_object,
        }

    def _read_counts(self, lake: Queryable, chosen: Chosen) -> tuple[int, int, dict[str, int]]:
        """Rows in staging of what was found and of what is missing, and the rows of versions that are loaded."""
        staged = sum(
            rows_in_staging(lake, stream, keys)
            for stream, keys in by_stream((each.stream, each.key) for each in chosen.found)
        )
        routes = ((self._chooser.streams.route(key), key) for key in chosen.missing)
        missing = sum(
            rows_in_staging(lake, stream, keys)
            for stream, keys in by_stream((route.stream, key) for route, key in routes if route)
        )
        etags = {each.key: each.etag for each in chosen.found}
        return staged, missing, known_rows(lake, self._chooser.bucket.name, etags)

    def _start(self, job: Job, events: dict[Identity, tuple[KeyEvent, Stream]]) -> asyncio.Task[None]:
        # Before the first is published: it may have its verdict at once.
        job.waiting = set(events)
        while len(self._jobs) >= JOBS_KEPT:
            # One that has ended, if there is one, the oldest first: what waits is counted against the limit.
            del self._jobs[min(self._jobs.values(), key=lambda each: len(each.waiting)).id]
        self._jobs[job.id] = job
        task = asyncio.create_task(self._queue(job, [*events.values()]), name=f"replay {job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _queue(self, job: Job, events: Sequence[tuple[KeyEvent, Stream]]) -> None:
        """Publishes all events, many in flight; a queue that does not answer is waited for, a while."""
        for at in range(0, len(events), IN_FLIGHT):
            page = events[at : at + IN_FLIGHT]
            results = await asyncio.gather(*(self._put(event, stream.id) for event, stream in page))
            failed = [result for result in results if isinstance(result, LotusError)]
            job.queued += sum(result is True for result in results)
            job.already_queued += sum(result is False for result in results)
            if failed:
                job.state, job.error = "failed", str(failed[0])
                log.error("replay not queued", id=job.id, queued=job.queued, error=job.error)
                lost = [e for (e, _), result in zip(page, results, strict=True) if result in failed]
                lost += [event for event, _ in events[at + IN_FLIGHT :]]
                job.waiting.difference_update(event.identity() for event in lost)
                return
        job.state = "queued"
        job.look()

    async def _put(self, event: KeyEvent, stream: StreamId) -> bool | LotusError:
        for attempt in range(1, TRIES + 1):
            try:
                return await self._publish(event, stream)
            except Unavailable as error:
                if attempt == TRIES:
                    return error
                await asyncio.sleep(RETRY_S)
            except LotusError as error:
                return error
        raise AssertionError("unreachable")


def by_stream(keys: Iterable[tuple[Stream, str]]) -> list[tuple[Stream, list[str]]]:
    """Groups keys by their stream."""
    groups: dict[StreamId, tuple[Stream, list[str]]] = {}
    for stream, key in keys:
        groups.setdefault(stream.id, (stream, []))[1].append(key)
    return list(groups.values())


def named(keys: Sequence[str]) -> dict[str, object]:
    """How many keys, and the first ones by name, as many as a message may hold."""
    names: list[str] = []
    size = 0
    for key in sorted(keys):
        size += len(json.dumps(key))
        if len(names) == NAMES_MOST or size > NAMES_BYTES_MOST:
            break
        names.append(key)
    return {"keys": len(keys), "names": names, "truncated": len(names) < len(keys)}
