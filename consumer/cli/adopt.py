"""`lotus-lake adopt`: takes over a lake that another program filled, so that what it holds is not loaded again."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer

from consumer.adopt import Check, Positions
from consumer.adopt_read import Desk
from consumer.cli.adopt_report import Report, document_of, show
from consumer.cli.asking import plain, whoever
from consumer.cli.common import ANSWER_IS_NO, DONE, WRONG_USAGE, errors_shown, fail, stderr
from consumer.connections import loader_bucket
from consumer.definitions import Definitions, load_definitions
from consumer.election import Election, new_instance_name
from consumer.errors import Misconfigured
from consumer.logs import configure_logs
from consumer.settings import Settings, load_settings
from consumer.spool import Spool
from feeders.adopt import Adopter
from feeders.catalog import end_other_writers
from feeders.lake import Lake
from feeders.old_lake import Position
from feeders.streams import StreamId, StreamTable

LIMIT = 1000
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ].+")


def adopt(
    *,
    cursor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE.STREAM=KEY",
            help="This stream was loaded up to this key, or up to objects of a time (2026-07-04T12:00:00Z), whatever"
            " the lake's cursor says; an empty one: its rows alone tell. May be given again.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="All other streams were loaded up to objects of this time."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write, if everything agrees; else it is only said what would be.")
    ] = False,
    replay_later: Annotated[
        bool,
        typer.Option(
            "--replay-later",
            help="Adopt although tables lack values of the files: they are NULL until `lotus-lake replay --source …"
            " --stream … --from … --to …`.",
        ),
    ] = False,
    by: Annotated[
        str | None, typer.Option(help="Who adopts, for the ledger; the login name if not given.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Name at most so many disagreements; all are counted.")
    ] = LIMIT,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, on one line.")
    ] = False,
) -> None:
    """Take over a lake without a ledger: match its rows with the bucket's files; 1, and no change, if they disagree."""
    configure_logs("warning", instance="adopt")
    with errors_shown():
        settings = load_settings()
        definitions = load_definitions(settings)
        positions = Positions(
            of_streams=dict(cursor_of(definitions.streams, each) for each in cursor or []),
            of_all=None if until is None else Position(until=time_of("--until", until)),
        )
        report = asyncio.run(
            run_adoption(
                settings,
                definitions,
                positions,
                by=by or whoever(),
                apply=apply,
                replay_later=replay_later,
            )
        )
    if as_json:
        typer.echo(json.dumps(document_of(report, limit=limit)))
    else:
        show(report, limit=limit)
    raise typer.Exit(ANSWER_IS_NO if report.disagreements else DONE)


def cursor_of(streams: StreamTable, text: str) -> tuple[StreamId, Position | None]:
    """Reads SOURCE.STREAM=KEY.

    Raises:
        typer.Exit: it is none; that was said.
    """
    name, equals, value = text.partition("=")
    stream = next((each.id for each in streams if str(each.id) == name), None)
    if not equals:
        fail(f"--cursor {plain(text)} has no =", WRONG_USAGE, hint="SOURCE.STREAM=KEY")
    if stream is None:
        known = ", ".join(str(each.id) for each in streams)
        fail(f"there is no stream {plain(name)}", WRONG_USAGE, hint=f"one of {known}")
    if not value:
        return stream, None
    if _TIME.fullmatch(value):
        return stream, Position(until=time_of("--cursor", value))
    return stream, Position(key=value)


def time_of(option: str, text: str) -> datetime:
    """Reads a time, UTC if it does not say another zone.

    Raises:
        typer.Exit: it is none; that was said.
    """
    try:
        found = datetime.fromisoformat(text) if _TIME.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        fail(f"{option} {plain(text)} is no time", WRONG_USAGE, hint="as in 2026-07-04T12:00:00Z")
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


async def run_adoption(
    settings: Settings,
    definitions: Definitions,
    positions: Positions,
    *,
    by: str,
    apply: bool,
    replay_later: bool,
) -> Report:
    """Looks at lake and bucket, and writes if that is asked for and everything agrees.

    Raises:
        Misconfigured: a service is at work on this lake.
        Unavailable, LakeError: a dependency does not answer, or somebody else writes to the lake.
        DdlRefused: a table can't become what its DDL says.
    """
    began = time.monotonic()
    instance = new_instance_name("w" if apply else "r")
    with stderr.status("adopting") as shown:

        def tell(what: str, count: int) -> None:
            shown.update(f"adopting: {count:,} {what}")

        async with AsyncExitStack() as held:
            is_held = await the_writer(settings, instance, held) if apply else never
            check = await opened(settings, definitions, positions, tell, held, instance=instance, apply=apply)
            old, found = await replace(check, replay_later=replay_later).run()
            agrees = not any(each.disagreements for each in found)
            wanted = [(each.old, each.adoption) for each in found if each.adoption and each.adoption.files]
            if apply and agrees and wanted:

                def write(lake: Lake) -> None:
                    adopter = Adopter(
                        lake=lake,
                        tables=definitions.tables,
                        snapshot=old.snapshot,
                        instance=instance,
                        by=by,
                        is_writer=lambda: is_held() and not check.desk.is_stopped,
                    )
                    for each in adopter.run(wanted):
                        tell(f"files of {each.stream} adopted", len(each.files))

                await check.desk.ask(write)
    seconds = time.monotonic() - began
    return Report(applied=apply and agrees, found=tuple(found), unknown=old.unknown, seconds=seconds)


async def the_writer(settings: Settings, instance: str, held: AsyncExitStack) -> Callable[[], bool]:
    """Takes the writer's lock until the end, and ends what is left of the last writer's sessions.

    Raises:
        Misconfigured: another process has it.
    """
    election = Election(settings.catalog, instance, idle_session_timeout_s=settings.lock_timeout_s)
    held.push_async_callback(election.release)
    if not await election.take():
        raise Misconfigured(
            "another process has the writer's lock of this lake: a service is at work, or another `adopt`",
            hint="stop every `lotus-lake run` of this lake, adopt, and start them again",
        )
    await asyncio.to_thread(end_other_writers, settings.catalog, instance=instance)
    return lambda: election.is_held


def never() -> bool:
    """Who only looks is no writer."""
    return False


async def opened(
    settings: Settings,
    definitions: Definitions,
    positions: Positions,
    tell: Callable[[str, int], None],
    held: AsyncExitStack,
    *,
    instance: str,
    apply: bool,
) -> Check:
    """Connects to all that an adoption needs."""
    spool = held.enter_context(Spool(settings.spool_dir, settings.spool_max_bytes))
    bucket = await held.enter_async_context(loader_bucket(settings, settings.landing_bucket))
    config = replace(settings.lake(instance), may_create=False, read_only=not apply)
    desk = Desk(await asyncio.to_thread(Lake, config))
    held.push_async_callback(desk.close)
    return Check(
        desk=desk,
        bucket=bucket,
        spool=spool,
        streams=definitions.streams,
        tables=definitions.tables,
        limits=settings.file_limits,
        positions=positions,
        at_once=settings.worker_reads,
        tell=tell,
    )
