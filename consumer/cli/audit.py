"""`lotus-lake audit`: objects in the bucket = loaded + dead + pending, and rows in their footers = rows in staging.

It opens the lake read-only, in a DuckDB of its own, so it works beside a running service and without one.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Annotated

import typer

from consumer.audit import Audit, Audited, RowsFrom
from consumer.audit_repair import Repair, Repaired
from consumer.audit_scope import scope_of
from consumer.broker import Broker
from consumer.cli.asking import plain, whoever
from consumer.cli.audit_report import document_of, show
from consumer.cli.common import ANSWER_IS_NO, DONE, WRONG_USAGE, errors_shown, fail, stderr
from consumer.connections import broker_config, loader_bucket
from consumer.definitions import load_definitions
from consumer.election import name_of_part, new_instance_name
from consumer.errors import Misconfigured
from consumer.objects import Bucket
from consumer.settings import Settings, load_settings
from feeders.audit_findings import Finding, findings_page
from feeders.lake import Lake
from feeders.reader import LakeReader
from feeders.streams import Stream, StreamId, StreamTable

PAGE = 1000
DAY = ["%Y-%m-%d"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks for."""

    prefix: str | None = None
    source: str | None = None
    stream: str | None = None
    first: date | None = None
    last: date | None = None
    rows_from: RowsFrom = "footers"
    limit: int = PAGE
    repair: bool = False
    as_json: bool = False


def audit(
    *,
    prefix: Annotated[
        str | None, typer.Option(help="Objects whose keys begin like this; all that land if not given.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="With --stream: of this stream.")] = None,
    stream: Annotated[str | None, typer.Option(help="The stream's name.")] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=DAY, metavar="DAY", help="First day, YYYY-MM-DD.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=DAY, metavar="DAY", help="Last day.")
    ] = None,
    rows_from: Annotated[
        RowsFrom,
        typer.Option(
            "--rows",
            help="Hold rows in staging against each object's own footer, or against the ledger, which asks S3 for"
            " nothing; or don't count them.",
        ),
    ] = "footers",
    limit: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Name at most so many keys; all are counted.")
    ] = PAGE,
    repair: Annotated[
        bool, typer.Option("--repair", help="Publish what is missing, for the service to load or remove.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, on one line.")
    ] = False,
) -> None:
    """Prove that bucket and lake agree: each object, each row; 1 if something is unexplained, repaired or not."""
    request = Request(
        prefix=prefix,
        source=source,
        stream=stream,
        first=first.date() if first else None,
        last=last.date() if last else None,
        rows_from=rows_from,
        limit=limit,
        repair=repair,
        as_json=as_json,
    )
    with errors_shown():
        status = audit_and_report(load_settings(), request)
    raise typer.Exit(status)


def audit_and_report(settings: Settings, request: Request) -> int:
    """Audits, prints what was found, and returns the exit status."""
    streams = load_definitions(settings).streams
    stream = chosen_stream(streams, request)
    hold_options(settings, request)
    audited, findings, repaired = asyncio.run(run_audit(settings, streams, stream, request))
    if request.as_json:
        typer.echo(json.dumps(document_of(audited, findings, repaired)))
    else:
        show(audited, findings, repaired)
    return ANSWER_IS_NO if audited.unexplained else DONE


def chosen_stream(streams: StreamTable, request: Request) -> Stream | None:
    """The stream that was named.

    Raises:
        typer.Exit: there is none of that name; that was said.
    """
    if (request.source is None) != (request.stream is None):
        fail("--source and --stream come together", WRONG_USAGE)
    if request.source is None or request.stream is None:
        return None
    stream = streams.get(StreamId(source=request.source, stream=request.stream))
    if stream is None:
        known = ", ".join(str(each.id) for each in streams)
        fail(
            f"there is no stream {plain(request.source)}.{plain(request.stream)}",
            WRONG_USAGE,
            hint=f"one of {known}",
        )
    return stream


def hold_options(settings: Settings, request: Request) -> None:
    """Refuses options that don't go together.

    Raises:
        typer.Exit: that was said.
    """
    if (request.first is None) != (request.last is None):
        fail("--from and --to come together", WRONG_USAGE)
    if request.first is not None and request.last is not None and request.first > request.last:
        fail(f"--from {request.first} is after --to {request.last}", WRONG_USAGE)
    if request.prefix is not None and request.stream is not None:
        fail("--prefix and --stream don't go together", WRONG_USAGE, hint="a stream has its own places")
    landing = f"{settings.landing_prefix}/" if settings.landing_prefix else ""
    if request.prefix is not None and not request.prefix.startswith(landing):
        fail(
            f"--prefix {plain(request.prefix)} is not below the landing prefix, {plain(landing)}",
            WRONG_USAGE,
            hint="nothing that lies elsewhere is ever loaded (LOTUS_LANDING_PREFIX)",
        )
    if request.repair and request.rows_from == "none":
        fail(
            "--repair has to know which rows are there",
            WRONG_USAGE,
            hint="--rows ledger counts them and reads no footer",
        )


async def run_audit(
    settings: Settings, streams: StreamTable, stream: Stream | None, request: Request
) -> tuple[Audited, list[Finding], Repaired | None]:
    """Audits once, and repairs if that is asked for.

    Raises:
        Unavailable, LakeError: a dependency does not answer.
        Misconfigured: NATS has no queue of this namespace.
    """
    days = (request.first, request.last) if request.first and request.last else None
    scope, looked_at = scope_of(
        streams,
        bucket=settings.landing_bucket,
        landing_prefix=settings.landing_prefix,
        prefix=request.prefix,
        stream=stream,
        days=days,
    )
    async with opened(settings, streams, repair=request.repair) as (broker, bucket, reader):
        with stderr.status("auditing") as shown:
            run = Audit(
                scope=scope,
                streams=streams,
                looked_at=looked_at,
                bucket=bucket,
                reader=reader,
                broker=broker,
                limits=settings.file_limits,
                rows_from=request.rows_from,
                at_once=settings.worker_reads,
                tell=lambda what, count: shown.update(f"auditing: {count:,} {what}"),
            )
            audited = await run.run()
            findings = [each async for each in first_findings(reader, request.limit)]
            repaired = None
            if request.repair and audited.unexplained:
                shown.update("repairing")
                repaired = await Repair(
                    bucket_name=settings.landing_bucket,
                    streams=streams,
                    reader=reader,
                    broker=broker,
                    max_pending=settings.sweep_max_pending,
                    most_removed_percent=settings.sweep_max_removed_percent,
                    by=whoever(),
                ).run()
    return audited, findings, repaired


@asynccontextmanager
async def opened(
    settings: Settings, streams: StreamTable, *, repair: bool
) -> AsyncGenerator[tuple[Broker, Bucket, LakeReader]]:
    """Connects to all that an audit needs; in NATS only a repair sets anything up."""
    instance = new_instance_name()
    config = replace(settings.lake(name_of_part(instance, "r")), may_create=False, read_only=True)
    async with AsyncExitStack() as held:
        broker = await Broker.connect(broker_config(settings, name_of_part(instance, "c")))
        held.push_async_callback(broker.close)
        if repair:
            await broker.ensure()
            await broker.subscribe([stream.id for stream in streams])
        elif await broker.queue_made_at() is None:
            raise Misconfigured(
                f"NATS has no queue of the namespace {settings.namespace}",
                hint="is LOTUS_NAMESPACE that of the service? `lotus-lake run` makes the queue",
            )
        bucket = await held.enter_async_context(loader_bucket(settings, settings.landing_bucket))
        reader = LakeReader(lambda: Lake(config))
        held.push_async_callback(asyncio.to_thread, reader.close)
        yield broker, bucket, reader


async def first_findings(reader: LakeReader, limit: int) -> AsyncIterator[Finding]:
    """Gives what nothing explains, at most so many."""
    last: Finding | None = None
    while limit > 0 and (
        page := await asyncio.to_thread(
            reader.read,
            lambda lake, last=last, most=limit: findings_page(lake, after=last, size=min(most, PAGE)),
        )
    ):
        for finding in page:
            yield finding
        last, limit = page[-1], limit - len(page)
