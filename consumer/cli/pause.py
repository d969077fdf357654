"""`lotus-lake pause` and `lotus-lake resume`: a stream's keys stay in the queue for a while.

Both ask the writer over NATS; `pause --list` reads the lake by itself, so that it works while no service does.
"""

import asyncio
import json
from dataclasses import replace as replace_config
from typing import Annotated, cast

import typer

from consumer.cli.asking import ask, connected, document_of, plain, whoever
from consumer.cli.common import WRONG_USAGE, errors_shown, fail
from consumer.cli.replay import ByOption, JsonOption
from consumer.election import new_instance_name
from consumer.settings import Settings, load_settings
from consumer.subjects import pause_subject, resume_subject
from feeders.lake import Lake
from feeders.pauses import Pause, pause_json, read_pauses
from feeders.reader import LakeReader

Document = dict[str, object]

_STREAM = "SOURCE.STREAM"


def pause(
    *,
    stream: Annotated[str | None, typer.Argument(metavar=f"[{_STREAM}]", help="The stream to pause.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; recorded.")] = None,
    by: ByOption = None,
    listed: Annotated[bool, typer.Option("--list", help="Show which streams are paused.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Keep a stream's keys in the queue until it is resumed; other streams go on."""
    if listed == (stream is not None):
        fail("pause needs a stream, or --list", WRONG_USAGE, hint=f"lotus-lake pause {_STREAM} --reason why")
    if listed and (reason, by) != (None, None):
        fail("--reason and --by are for pausing a stream", WRONG_USAGE)
    with errors_shown():
        settings = load_settings()
        if stream is None:
            show(look(settings), as_json=as_json)
            return
        document = request_for(stream, by=by, reason=reason)
        answer = asyncio.run(asked(settings, pause_subject(settings.namespace), document))
    if as_json:
        typer.echo(json.dumps(answer))
        return
    paused = cast("list[Document]", answer["paused"])
    [found] = [each for each in paused if f"{each['source']}.{each['stream']}" == stream]
    word = "is paused" if answer["changed"] else "was paused already:"
    typer.echo(f"{plain(stream)} {word} {told(found)}")


def resume(
    *,
    stream: Annotated[str, typer.Argument(metavar=_STREAM, help="The stream to go on with.")],
    reason: Annotated[str | None, typer.Option(help="Why; for the log.")] = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a paused stream: its keys that wait are loaded."""
    with errors_shown():
        settings = load_settings()
        document = request_for(stream, by=by, reason=reason)
        answer = asyncio.run(asked(settings, resume_subject(settings.namespace), document))
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"{plain(stream)} {'goes on' if answer['changed'] else 'was not paused'}")


def request_for(stream: str, *, by: str | None, reason: str | None) -> Document:
    """A request about the stream of that name.

    Raises:
        typer.Exit: that is no name of a stream; that was said.
    """
    source, dot, name = stream.partition(".")
    if not (source and dot and name):
        fail(f"expected {_STREAM}, found {plain(stream)}", WRONG_USAGE, hint="e.g. shopify.orders")
    return {"source": source, "stream": name, "by": by or whoever(), "reason": reason}


async def asked(settings: Settings, subject: str, document: Document) -> Document:
    """Asks the writer."""
    async with connected(settings) as broker:
        return document_of(await ask(broker, subject, document))


def look(settings: Settings) -> list[Pause]:
    """Reads from the lake which streams are paused, apart from any service."""
    instance = new_instance_name("r")
    reader = LakeReader(lambda: Lake(replace_config(settings.lake(instance), may_create=False)))
    try:
        return reader.read(read_pauses)
    finally:
        reader.close()


def show(pauses: list[Pause], *, as_json: bool) -> None:
    """Prints them, a line each."""
    documents = [pause_json(each) for each in pauses]
    if as_json:
        typer.echo(json.dumps(documents))
    elif not documents:
        typer.echo("no stream is paused", err=True)
    else:
        for each in documents:
            typer.echo(f"{plain(each['source'])}.{plain(each['stream'])} {told(each)}")


def told(document: Document) -> str:
    """Since when a stream is paused, by whom and why."""
    return f"since {str(document['since'])[:19]}Z by {plain(document['by'])}: {plain(document['reason'])}"
