"""THE STORY: one key, from claim to verdict.

Read `KeyWalk.walk` first: its steps are numbered, none goes back, and it returns in exactly one way. What the
return means for the message is decided in `consumer.verdict`; who calls it is `consumer.worker`.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from consumer.drifting import DriftReport, Growing
from consumer.errors import CrashedProcess, HeldBack, NotFound, Unavailable
from consumer.events import Identity, KeyEvent
from consumer.evidence import Detail, of_bad_file, of_statement
from consumer.objects import Answer, Bucket
from consumer.shares import Shares
from consumer.spool import Slot, Spool
from consumer.subjects import Lane, Queued
from consumer.suspects import Suspects
from consumer.verdict import Ending
from consumer.walked import Trace, Walked, ending_of, superseded, unavailable, unrouted
from feeders import fault
from feeders.drift import SchemaRejected, require_known_columns
from feeders.lake import LakeConflict, LakeMisconfigured, LakeUnavailable, StatementFailed
from feeders.ledger import ObjectVersion
from feeders.parquet import BadFile, Footer, Limits, inspect
from feeders.parquet_limits import hold
from feeders.schema import LoadPlan, plan_load
from feeders.streams import Route, Stream, StreamTable
from feeders.work import ClaimLost, Load, Removal, Request, Result, Work
from feeders.writer import Writer

PLANS_AGAIN = 4
"""Files planned again at once, by a reader that may look at every value: fewer than there are threads, so that a
stream whose files all fail leaves some to the keys of others. Not `reads`: who has one may wait for the region."""
YOUNG_S = 60.0
"""A created object that answers 404 may just not be visible yet while it is younger than this."""

_NEWLY_LOADED = frozenset({Ending.LOADED, Ending.REPLACED, Ending.REPLAYED})


@dataclass(frozen=True, kw_only=True)
class KeyWalk:
    """What the walk of a key needs; shared by all keys of a term."""

    streams: StreamTable
    bucket_name: str
    bucket: Bucket
    spool: Spool
    limits: Limits
    writer: Writer
    reads: Shares[Queued]
    suspects: Suspects
    growing: Growing
    drift: DriftReport
    plans_again: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PLANS_AGAIN))

    async def walk(
        self,
        event: KeyEvent,
        identity: Identity,
        *,
        is_claimed: Callable[[], bool],
        trace: Trace,
        isolated: bool = False,
    ) -> Walked:
        """Walks one claimed key, with `isolated` in a transaction that it shares with no other key.

        `identity` is the one it waits under in the queue: an event that others published may have another one.

        What it raises, but for CancelledError and what ends the term (LakeFenced, Misconfigured), is unexpected.
        """
        # 1. Which stream's key is it?
        route = self.streams.route(event.key) if event.bucket == self.bucket_name else None
        if route is None:
            return unrouted(event, self.bucket_name)
        stream = route.stream
        try:
            try:
                return await self._load(event, identity, route, is_claimed, trace, isolated=isolated)
            except NotFound:
                return await self._gone(event, route, is_claimed, trace)
        except BadFile as error:
            if error.schema is not None:
                trace.compared = stream, error.schema
            if isinstance(error, SchemaRejected):
                self.drift.drifted(stream, "reject", error.drifts)
            return Walked(
                ending=Ending.POISON,
                stream=stream,
                reason=error.reason,
                detail=of_bad_file(error),
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
        except OSError as error:
            if error.errno is None:
                raise
            return unavailable(stream, "disk", error)  # what the system refuses is no file's fault
        except (LakeConflict, LakeMisconfigured) as error:
            return unavailable(stream, "lake", error)
        except StatementFailed as error:
            reason = "over_memory" if error.kind == "OutOfMemoryException" else "unexpected"
            return Walked(
                ending=Ending.UNEXPECTED,
                stream=stream,
                reason=reason,
                detail=of_statement(error),
                etag=trace.etag,
            )

    async def _load(
        self,
        event: KeyEvent,
        identity: Identity,
        route: Route,
        is_claimed: Callable[[], bool],
        trace: Trace,
        *,
        isolated: bool,
    ) -> Walked:
        async with AsyncExitStack() as held:
            # 2. Was it in work when the process died? Then it waits for its turn, or has had them all.
            await held.enter_async_context(self.suspects.turn(identity))
            of = Lane.REPLAYS if event.replay else route.stream.id
            async with self.reads.held(of):
                # 3. One GET into the spool: the bytes and their etag, whatever the notification said.
                with trace.stage("get"):
                    async with self.bucket.open(event.key) as answer:
                        trace.etag = answer.etag
                        self._hold_size(answer)
                        slot = await held.enter_async_context(self.spool.reserve(answer.size_bytes, of=of))
                        version = await self._read(answer, event, slot.path)
                fault.point("got")
                # 4. From here on a file may kill the process: who is at work is on record before.
                with trace.stage("note"):
                    await held.enter_async_context(self.suspects.region(identity))
                fault.point("noted")
                # 5. The check: footer, limits, schema, and from it the load plan.
                with trace.stage("check"):
                    footer, plan = await asyncio.to_thread(self._check, slot, route.stream, trace)
                fault.point("checked")
            # 6. What the file has beyond its table, the table gets first, where the stream adds columns.
            if plan is None:
                route, plan = await self._plan_again(slot, route, footer, trace)
            # 7. The writer's transaction; this returns after its COMMIT.
            try:
                load = load_of(event, route, version, plan)
                walked = await self._write(load, is_claimed, trace, isolated=isolated)
            except StatementFailed:
                # It failed alone: a plan that reads every value loads what DuckDB can't, or names what is bad.
                route, plan = await self._plan_again(slot, route, footer, trace, careful=True)
                load = load_of(event, route, version, plan)
                walked = await self._write(load, is_claimed, trace, isolated=True)
            if walked.ending in _NEWLY_LOADED:
                self.drift.loaded(route.stream, plan)
            return superseded(walked, event)

    def _hold_size(self, answer: Answer) -> None:
        """Refuses an object by its announced size, before room is made for it."""
        hold("bytes", answer.size_bytes, self.limits, "max_bytes")

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

    def _check(self, slot: Slot, stream: Stream, trace: Trace) -> tuple[Footer, LoadPlan | None]:
        """Checks a file and plans its load; there is no plan yet if the table has to get columns first."""
        footer = inspect(slot.path, self.limits)
        trace.compared = stream, footer.schema
        if stream.on_new_column == "reject":
            require_known_columns(footer.schema, stream.columns)
        if self.growing.is_needed(stream, footer.schema):
            return footer, None
        return footer, plan_load(slot.path, footer, stream.columns, work_dir=slot.work_dir)

    async def _plan_again(
        self, slot: Slot, route: Route, footer: Footer, trace: Trace, *, careful: bool = False
    ) -> tuple[Route, LoadPlan]:
        """Plans a file anew: with the columns that its table got, or with care because its load failed."""
        with trace.stage("check"):
            if route.stream.on_new_column == "add":
                # With care the lake is asked: the load may have failed because columns are gone.
                stream = await self.growing.grow(route.stream, footer.schema, ask=careful)
                route = replace(route, stream=stream)
            columns = route.stream.columns
            trace.compared = route.stream, footer.schema
            async with self.plans_again:
                plan = await asyncio.to_thread(
                    plan_load, slot.path, footer, columns, work_dir=slot.work_dir, careful=careful
                )
        return route, plan

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
                # Of a sender whose clock is far ahead it would be young for as long.
                young = abs((datetime.now(UTC) - event.sent_at).total_seconds()) < YOUNG_S
                return Walked(
                    ending=Ending.NOT_YET if young else Ending.STALE, stream=route.stream, reason="404"
                )
            case _:
                assert_never(event.event)


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
