"""THE STORY: one key, from claim to verdict.

Read `KeyWalk.walk` first: its steps are numbered, none goes back, and it returns in exactly one way. What the
return means for the message is decided in `consumer.verdict`; who calls it is `consumer.worker`.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from consumer.errors import CrashedProcess, HeldBack, NotFound, Unavailable
from consumer.events import KeyEvent
from consumer.objects import Answer, Bucket
from consumer.spool import Spool
from consumer.suspects import Suspects
from consumer.verdict import Ending
from feeders import fault
from feeders.lake import LakeConflict, LakeMisconfigured, LakeUnavailable, StatementFailed
from feeders.ledger import ObjectVersion
from feeders.parquet import BadFile, Limits, inspect
from feeders.schema import LoadPlan, plan_load
from feeders.streams import Route, Stream, StreamTable
from feeders.work import ClaimLost, Load, Outcome, Removal, Request, Result, Work
from feeders.writer import Writer

YOUNG_S = 60.0
"""A created object that answers 404 may just not be visible yet while it is younger than this."""

Detail = Mapping[str, str | int | None]


@dataclass(kw_only=True)
class Trace:
    """What one attempt at a key leaves behind: seconds in each stage, and the etag of what the GET brought."""

    stages: dict[str, float] = field(default_factory=dict[str, float])
    etag: str | None = None

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Measures the block as one stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True, kw_only=True)
class Walked:
    """How one attempt at a key ended, with the facts for its log line, its metrics and its dead letter."""

    ending: Ending
    stream: Stream | None = None
    reason: str | None = None
    detail: Detail = field(default_factory=dict[str, "str | int | None"])
    version: ObjectVersion | None = None
    etag: str | None = None
    rows: int = 0
    rescued_rows: int = 0
    result: Result | None = None


@dataclass(frozen=True, kw_only=True)
class KeyWalk:
    """What the walk of a key needs; shared by all keys of a term."""

    streams: StreamTable
    bucket_name: str
    bucket: Bucket
    spool: Spool
    limits: Limits
    writer: Writer
    reads: asyncio.Semaphore
    suspects: Suspects

    async def walk(
        self, event: KeyEvent, *, is_claimed: Callable[[], bool], trace: Trace, isolated: bool = False
    ) -> Walked:
        """Walks one claimed key, with `isolated` in a transaction that it shares with no other key.

        Raises nothing but CancelledError and what ends the term (LakeFenced, Misconfigured).
        """
        # 1. Which stream's key is it?
        route = self.streams.route(event.key) if event.bucket == self.bucket_name else None
        if route is None:
            return unrouted(event, self.bucket_name)
        stream = route.stream
        try:
            try:
                return await self._load(event, route, is_claimed, trace, isolated=isolated)
            except NotFound:
                return await self._gone(event, route, is_claimed, trace)
        except BadFile as error:
            return Walked(
                ending=Ending.POISON,
                stream=stream,
                reason=error.reason,
                detail=evidence(error),
                etag=trace.etag,
            )
        except HeldBack as error:
            return Walked(
                ending=Ending.HELD_BACK, stream=stream, reason="suspect", detail={"error": str(error)}
            )
        except CrashedProcess as error:
            crashed: Detail = {"error": str(error), "deaths": error.deaths}
            return Walked(
                ending=Ending.CRASHED_PROCESS, stream=stream, reason="crashed_process", detail=crashed
            )
        except (Unavailable, LakeUnavailable) as error:
            return unavailable(stream, error.dependency, error)
        except (LakeConflict, LakeMisconfigured) as error:
            return unavailable(stream, "lake", error)
        except StatementFailed as error:
            reason = "over_memory" if error.kind == "OutOfMemoryException" else "unexpected"
            detail: Detail = {"kind": error.kind, "error": str(error)}
            return Walked(
                ending=Ending.UNEXPECTED, stream=stream, reason=reason, detail=detail, etag=trace.etag
            )

    async def _load(
        self, event: KeyEvent, route: Route, is_claimed: Callable[[], bool], trace: Trace, *, isolated: bool
    ) -> Walked:
        identity = event.identity()
        async with AsyncExitStack() as held:
            # 2. Was it in work when the process died? Then it waits for its turn, or has had them all.
            await held.enter_async_context(self.suspects.turn(identity))
            async with self.reads:
                # 3. One GET into the spool: the bytes and their etag, whatever the notification said.
                with trace.stage("get"):
                    async with self.bucket.open(event.key) as answer:
                        trace.etag = answer.etag
                        self._hold_size(answer)
                        slot = await held.enter_async_context(self.spool.reserve(answer.size_bytes))
                        version = await self._read(answer, event, slot.path)
                fault.point("got")
                # 4. From here on a file may kill the process: who is at work is on record before.
                with trace.stage("note"):
                    await held.enter_async_context(self.suspects.region(identity))
                # 5. The check: footer, limits, schema, and from it the load plan.
                with trace.stage("check"):
                    plan = await asyncio.to_thread(self._check, slot.path, route, slot.work_dir)
                fault.point("checked")
            # 6. The writer's transaction; this returns after its COMMIT.
            try:
                load = load_of(event, route, version, plan)
                walked = await self._write(load, is_claimed, trace, isolated=isolated)
            except StatementFailed:
                # It failed alone: a plan that reads every value loads what DuckDB can't, or names what is bad.
                with trace.stage("check"):
                    plan = await asyncio.to_thread(self._check, slot.path, route, slot.work_dir, careful=True)
                load = load_of(event, route, version, plan)
                walked = await self._write(load, is_claimed, trace, isolated=True)
            return superseded(walked, event)

    def _hold_size(self, answer: Answer) -> None:
        """Refuses an object by its announced size, before room is made for it."""
        if answer.size_bytes > self.limits.max_bytes:
            message = (
                f"the object has {answer.size_bytes} bytes, LOTUS_FILE_MAX_BYTES is {self.limits.max_bytes}"
            )
            raise BadFile("over_limit", message, {"limit": "file_max_bytes", "found": answer.size_bytes})

    async def _read(self, answer: Answer, event: KeyEvent, path: Path) -> ObjectVersion:
        await answer.save(path)
        return ObjectVersion(
            bucket=event.bucket,
            key=event.key,
            etag=answer.etag,
            version_id=answer.version_id,
            size_bytes=answer.size_bytes,
            last_modified=answer.last_modified,
        )

    def _check(self, path: Path, route: Route, work_dir: Path, *, careful: bool = False) -> LoadPlan:
        footer = inspect(path, self.limits)
        return plan_load(path, footer, route.stream.columns, work_dir=work_dir, careful=careful)

    async def _write(
        self, work: Load | Removal, is_claimed: Callable[[], bool], trace: Trace, *, isolated: bool = False
    ) -> Walked:
        stream = work.stream
        try:
            with trace.stage("write"):
                result = await self._submit(work, is_claimed, isolated=isolated)
        except ClaimLost as error:
            return Walked(ending=Ending.CLAIM_LOST, stream=stream, reason=str(error))
        trace.stages["queue"] = result.queue_s
        trace.stages["commit"] = result.commit_s
        return Walked(
            ending=ending_of(result.applied.outcome),
            stream=stream,
            version=work.version if isinstance(work, Load) else None,
            rows=result.applied.rows,
            rescued_rows=result.applied.rescued_rows,
            result=result,
        )

    async def _submit(self, work: Work, is_claimed: Callable[[], bool], *, isolated: bool) -> Result:
        fault.point("submitting")
        result = await asyncio.wrap_future(self.writer.submit(work, is_claimed=is_claimed, isolated=isolated))
        fault.point("delivered")
        return result

    async def _gone(
        self, event: KeyEvent, route: Route, is_claimed: Callable[[], bool], trace: Trace
    ) -> Walked:
        """The bucket has no such object: a removal, a race, or a notification that came too late."""
        match event.event:
            case "removed":
                if route.stream.on_delete == "keep":
                    return Walked(ending=Ending.KEPT, stream=route.stream)
                return await self._write(removal_of(event, route), is_claimed, trace)
            case "created":
                young = (datetime.now(UTC) - event.sent_at).total_seconds() < YOUNG_S
                return Walked(
                    ending=Ending.NOT_YET if young else Ending.STALE, stream=route.stream, reason="404"
                )
            case _:
                assert_never(event.event)


def unrouted(event: KeyEvent, bucket_name: str) -> Walked:
    """A key that belongs to no stream, with what a person needs to see why; that it is gone is no trouble."""
    if event.event == "removed":
        return Walked(ending=Ending.ABSENT)
    if event.bucket != bucket_name:
        reason = f"the landing bucket is {bucket_name}"
    else:
        reason = "no stream's landing place and layout match this key"
    return Walked(
        ending=Ending.UNROUTED, reason="unrouted", detail={"expected": reason, "bucket": event.bucket}
    )


def unavailable(stream: Stream, dependency: str, error: Exception) -> Walked:
    """A dependency does not answer, or not yet: no fault of the key's."""
    return Walked(ending=Ending.UNAVAILABLE, stream=stream, reason=dependency, detail={"error": str(error)})


def superseded(walked: Walked, event: KeyEvent) -> Walked:
    """A duplicate that is not the version which the event is about: that one was overwritten, and never read."""
    is_other = walked.version is not None and event.etag not in (None, walked.version.etag)
    if walked.ending is Ending.DUPLICATE and is_other:
        return replace(walked, ending=Ending.SUPERSEDED)
    return walked


def load_of(event: KeyEvent, route: Route, version: ObjectVersion, plan: LoadPlan) -> Load:
    """The work item of an object version that was read and checked."""
    return Load(
        stream=route.stream,
        partition=route.partition,
        version=version,
        plan=plan,
        found_by=event.found_by,
        replay=Request(by=event.replay.by, reason=event.replay.reason) if event.replay else None,
    )


def removal_of(event: KeyEvent, route: Route) -> Removal:
    """The work item of an object that is gone."""
    return Removal(
        stream=route.stream,
        partition=route.partition,
        bucket=event.bucket,
        key=event.key,
        found_by=event.found_by,
    )


def evidence(error: BadFile) -> Detail:
    """What a dead letter says of a bad file: never a row's value."""
    return {"error": str(error), **error.evidence}


def ending_of(outcome: Outcome) -> Ending:
    """The walk's ending for what the transaction did."""
    match outcome:
        case Outcome.LOADED:
            return Ending.LOADED
        case Outcome.REPLACED:
            return Ending.REPLACED
        case Outcome.REPLAYED:
            return Ending.REPLAYED
        case Outcome.DUPLICATE:
            return Ending.DUPLICATE
        case Outcome.REMOVED:
            return Ending.REMOVED
        case Outcome.ABSENT:
            return Ending.ABSENT
        case Outcome.RECORDED:
            raise ValueError("a dead letter's record is no ending of a walk")
        case _:
            assert_never(outcome)
