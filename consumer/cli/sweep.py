"""`lotus-lake sweep`: one whole sweep by hand, and a person's word on keys that are gone.

It publishes through the queue, as the service's own sweep does, and the service looks at the bucket before it takes
any row away. So it works while the service runs and while it does not.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated

import typer

from consumer.broker import Broker
from consumer.cli.common import ANSWER_IS_NO, DONE, WRONG_USAGE, errors_shown, fail
from consumer.connections import broker_config, loader_bucket
from consumer.definitions import load_definitions
from consumer.election import name_of_part, new_instance_name
from consumer.events import KeyEvent
from consumer.ingress.gone import Gone, GonePolicy
from consumer.ingress.sweep import Sweep, Swept
from consumer.logs import configure_logs
from consumer.metrics import Metrics
from consumer.settings import Settings, load_settings
from consumer.sweeping import make_sweep
from feeders.lake import Lake
from feeders.reader import LakeReader
from feeders.streams import Stream, StreamId, StreamTable


def sweep(
    *,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="SOURCE.STREAM", help="Let all removals of this stream through, however many."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing; say what would be.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, with all keys.")
    ] = False,
) -> None:
    """List the landing bucket once; publish what the lake lacks, and what is gone. 1: something waits for a person."""
    configure_logs("warning", instance="sweep")
    with errors_shown():
        status = sweep_and_report(load_settings(), confirm=confirm, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(status)


def sweep_and_report(settings: Settings, *, confirm: str | None, dry_run: bool, as_json: bool) -> int:
    """Sweeps, prints what was done, and returns the exit status."""
    report = Report(dry_run=dry_run, as_json=as_json)
    streams = load_definitions(settings).streams
    stream = find_stream(streams, confirm) if confirm is not None else None
    swept = asyncio.run(run_sweep(settings, streams, stream, report))
    report.end(swept)
    waits = swept.stalled or any(gone.must_wait for gone in swept.gone.values())
    return ANSWER_IS_NO if waits else DONE


def find_stream(streams: StreamTable, name: str) -> Stream:
    """The stream of that name, if its rows go with their objects."""
    found = next((stream for stream in streams if str(stream.id) == name), None)
    if found is None:
        known = ", ".join(str(stream.id) for stream in streams)
        fail(f"there is no stream {name}", WRONG_USAGE, hint=f"one of {known}")
    if found.on_delete == "keep":
        fail(
            f"{name} keeps the rows of objects that are gone: nothing of it waits",
            WRONG_USAGE,
            hint="the header on_delete: remove in its ddl/ file would let them go",
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Report:
    """Shows a person what is done, before it is; or keeps it for one JSON object."""

    dry_run: bool
    as_json: bool
    created: list[str] = field(default_factory=list[str])
    removed: list[str] = field(default_factory=list[str])

    def about_to_remove(self, stream: StreamId, gone: Gone | None) -> None:
        """Says how many keys of a stream are gone, and whether they are let through."""
        if gone is None or self.as_json:
            return
        found = gone.absence
        typer.echo(
            f"{stream}: {found.gone} of {found.present} keys are gone from the bucket, which has {found.listed}"
        )
        if gone.must_wait:
            for key in gone.examples:
                typer.echo(f"  gone     {shown(key)}")
            typer.echo(
                f"  they wait; if they are meant to be gone: lotus-lake sweep --confirm {stream}", err=True
            )

    def about_to_publish(self, event: KeyEvent) -> None:
        """Names a key that is new to the lake, or gone."""
        if self.as_json:
            (self.created if event.event == "created" else self.removed).append(event.key)
        else:
            what = "new" if event.event == "created" else "gone"
            typer.echo(f"  {what:<8} {shown(event.key)}")

    def end(self, swept: Swept) -> None:
        """Sums up."""
        stalled = sorted(str(stream) if stream else "keys of no stream" for stream in swept.stalled)
        if self.as_json:
            document = {
                "dry_run": self.dry_run,
                "listed": swept.listed,
                "published": swept.published,
                "removed": swept.removed,
                "created_keys": self.created,
                "removed_keys": self.removed,
                "gone": {
                    str(stream): {**asdict(gone.absence), "examples": gone.examples, "waits": gone.must_wait}
                    for stream, gone in swept.gone.items()
                },
                "stalled": stalled,
            }
            typer.echo(json.dumps(document))
            return
        did = "would be published" if self.dry_run else "published, for the service to load or remove"
        typer.echo(f"{swept.listed} objects listed, {swept.published} new and {swept.removed} gone {did}")
        if stalled:
            typer.echo(
                f"left out, since their queue is full and does not move: {', '.join(stalled)}", err=True
            )


def shown(key: str) -> str:
    """A key on one line, whatever is in it."""
    return key if key.isprintable() else ascii(key)


async def run_sweep(
    settings: Settings, streams: StreamTable, confirmed: Stream | None, report: Report
) -> Swept:
    """Sweeps once: everything, or the one stream that a person has confirmed.

    Raises:
        Unavailable, LakeError: a dependency does not answer, or the catalog has no lake.
    """
    async with opened(settings, streams, report) as whole:
        policy = GonePolicy(
            most_percent=settings.sweep_max_removed_percent,
            confirmed=frozenset({confirmed.id} if confirmed else ()),
            tell=report.about_to_remove,
        )
        return await replace(whole, policy=policy, only=confirmed).run()


@asynccontextmanager
async def opened(settings: Settings, streams: StreamTable, report: Report) -> AsyncGenerator[Sweep]:
    """Connects to all that a sweep needs."""
    instance = new_instance_name()
    config = replace(settings.lake(name_of_part(instance, "r")), may_create=False)
    async with AsyncExitStack() as held:
        broker = await Broker.connect(broker_config(settings, instance))
        held.push_async_callback(broker.close)
        if not report.dry_run:
            await broker.ensure()
            await broker.subscribe([stream.id for stream in streams])
        bucket = await held.enter_async_context(loader_bucket(settings, settings.landing_bucket))
        reader = LakeReader(lambda: Lake(config))
        held.push_async_callback(asyncio.to_thread, reader.close)

        async def publish(event: KeyEvent, stream: StreamId | None) -> bool:
            report.about_to_publish(event)
            return report.dry_run or await broker.publish_key(event, stream)

        sweep = make_sweep(
            settings,
            streams,
            broker=broker,
            bucket=bucket,
            reader=reader,
            publish=publish,
            metrics=Metrics(),
        )
        yield replace(sweep, pending=nothing_pending) if report.dry_run else sweep


async def nothing_pending(_: StreamId | None) -> int:
    """The queue's room is nothing to wait for when nothing is put there."""
    return 0
