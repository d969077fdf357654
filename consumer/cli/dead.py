"""`lotus-lake dead`: the dead letters.

`ls` and `show` read the lake by themselves, so that they work while no service does; `replay` and `drop` change
something, which only the writer may: they ask it over NATS.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace as replace_config
from typing import Annotated, TypeVar, cast

import typer

from consumer.cli.asking import ask, connected, document_of, plain, whoever
from consumer.cli.common import ANSWER_IS_NO, WRONG_USAGE, errors_shown, fail
from consumer.cli.replay import ByOption, DryRunOption, JsonOption, ReasonOption, WaitOption, run_replay
from consumer.election import new_instance_name
from consumer.errors import BrokerMisconfigured, Unavailable
from consumer.letter_request import LETTERS_USUAL
from consumer.letters import add_payloads, summary
from consumer.replay_request import ANY_REASON
from consumer.settings import Settings, load_settings
from consumer.subjects import letters_subject
from feeders.lake import Lake
from feeders.letters import Letter, LetterFilter, count_letters, find_letters, letter_json
from feeders.reader import LakeReader, Queryable
from feeders.streams import StreamId

T = TypeVar("T")
Document = dict[str, object]

app = typer.Typer(no_args_is_help=True, help="The dead letters: what could not be loaded.")

KeyArgument = Annotated[str | None, typer.Argument(metavar="[KEY]", help="Of this very key.")]
DeadOption = Annotated[str | None, typer.Option(metavar="REASON", help="With this reason.")]
SourceOption = Annotated[str | None, typer.Option(help="With --stream: of this stream.")]
StreamOption = Annotated[str | None, typer.Option(help="The stream's name.")]
PrefixOption = Annotated[str | None, typer.Option(help="Of keys that begin like this.")]
AllOption = Annotated[bool, typer.Option("--all", help="Resolved ones too.")]
LimitOption = Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the newest first.")]


@app.callback()
def dead() -> None:
    """The dead letters: what could not be loaded."""


@app.command()
def ls(
    *,
    key: KeyArgument = None,
    dead: DeadOption = None,
    source: SourceOption = None,
    stream: StreamOption = None,
    prefix: PrefixOption = None,
    everything: AllOption = False,
    limit: LimitOption = LETTERS_USUAL,
    counts: Annotated[bool, typer.Option("--summary", help="Count them by stream and reason.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, a line each."""
    which = filter_of(key, dead, source, stream, prefix, everything=everything)
    with errors_shown():
        settings = load_settings()
        if counts:
            found = summary(read(settings, lambda lake: count_letters(lake, which)))
            if as_json:
                typer.echo(json.dumps(found))
            else:
                show_counts(cast("list[Document]", found["counts"]))
            return
        letters = look_for(settings, which, limit)
    if as_json:
        typer.echo(json.dumps([letter_json(letter) for letter in letters]))
    elif not letters:
        say_none(everything=everything)
    for letter in () if as_json else letters:
        at = letter.failed_at.isoformat(timespec="seconds")
        state = f" [{plain(letter.resolution)}]" if letter.resolved_at else ""
        error = plain(json.loads(letter.detail).get("error", ""))[:120]
        typer.echo(
            f"{at} {letter.stream or '-'} {plain(letter.reason)} {plain(letter.key or '-')}{state} {error}"
        )


@app.command()
def show(
    *,
    key: KeyArgument = None,
    dead: DeadOption = None,
    source: SourceOption = None,
    stream: StreamOption = None,
    prefix: PrefixOption = None,
    everything: AllOption = False,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """Print everything that is known of dead letters; 1 if there are none."""
    which = filter_of(key, dead, source, stream, prefix, everything=everything)
    with errors_shown():
        settings = load_settings()
        letters = look_for(settings, which, limit)
        documents = [letter_json(letter) for letter in letters]
        if any(letter.key is None for letter in letters):
            asyncio.run(with_payloads(settings, letters, documents))
    if as_json:
        typer.echo(json.dumps(documents))
    elif not letters:
        say_none(everything=everything)
    for document in () if as_json else documents:
        show_one(document)
    raise typer.Exit(0 if letters else ANSWER_IS_NO)


@app.command()
def replay(
    *,
    key: KeyArgument = None,
    dead: DeadOption = None,
    source: SourceOption = None,
    stream: StreamOption = None,
    prefix: PrefixOption = None,
    by: ByOption = None,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    wait: WaitOption = True,
) -> None:
    """Load the objects of open dead letters again, of all if none are named; 1 if not all were."""
    document = document_for(key, dead, source, stream, prefix, by=by, reason=reason, dry_run=dry_run)
    run_replay(document, as_json=as_json, wait=wait)


@app.command()
def drop(
    *,
    key: KeyArgument = None,
    dead: DeadOption = None,
    source: SourceOption = None,
    stream: StreamOption = None,
    prefix: PrefixOption = None,
    reason: Annotated[str, typer.Option(help="Why they are never to be loaded; it is recorded.")],
    by: ByOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give dead letters up for good, for a reason that is recorded; 1 if there were none."""
    if (key, dead, source, prefix) == (None, None, None, None):
        fail("drop needs to know which", WRONG_USAGE, hint=f"--dead '{ANY_REASON}' drops every dead letter")
    document = document_for(key, dead, source, stream, prefix, by=by, reason=reason, dry_run=dry_run)
    with errors_shown():
        answer = asyncio.run(asked(load_settings(), {"op": "drop", **document}))
    count = cast("int", answer["would_drop"])
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"{count:,} dead letters {'would be dropped' if dry_run else 'dropped'}")
    raise typer.Exit(0 if count else ANSWER_IS_NO)


def filter_of(
    key: str | None,
    dead: str | None,
    source: str | None,
    stream: str | None,
    prefix: str | None,
    *,
    everything: bool,
) -> LetterFilter:
    """The filter of these options.

    Raises:
        typer.Exit: they don't go together; that was said.
    """
    if (source is None) != (stream is None):
        fail("--source and --stream come together", WRONG_USAGE)
    return LetterFilter(
        reason=None if dead == ANY_REASON else dead,
        stream=StreamId(source=source, stream=stream) if source is not None and stream is not None else None,
        key=key,
        prefix=prefix,
        state="any" if everything else "open",
    )


def document_for(
    key: str | None,
    dead: str | None,
    source: str | None,
    stream: str | None,
    prefix: str | None,
    *,
    by: str | None,
    reason: str | None,
    dry_run: bool,
) -> Document:
    """A request about dead letters."""
    return {
        # Not "or": a reason that a script left empty must not mean any.
        "dead": ANY_REASON if dead is None else dead,
        "source": source,
        "stream": stream,
        "key": key,
        "prefix": prefix,
        "by": by or whoever(),
        "reason": reason,
        "dry_run": dry_run or None,
    }


def read(settings: Settings, function: Callable[[Queryable], T]) -> T:
    """Reads the lake, apart from any service."""
    instance = new_instance_name("d")
    reader = LakeReader(lambda: Lake(replace_config(settings.lake(instance), may_create=False)))
    try:
        return reader.read(function)
    finally:
        reader.close()


def look_for(settings: Settings, which: LetterFilter, limit: int) -> list[Letter]:
    """Reads dead letters, and says if there are more than `limit`."""
    letters = read(settings, lambda lake: find_letters(lake, which, limit=limit + 1))
    if len(letters) > limit:
        typer.echo(f"only the newest {limit:,}; --limit shows more", err=True)
    return letters[:limit]


def say_none(*, everything: bool) -> None:
    """Says that nothing was found."""
    typer.echo("no dead letter" if everything else "no open dead letter (--all: resolved ones too)", err=True)


async def asked(settings: Settings, document: Document) -> Document:
    """Asks the writer about dead letters."""
    async with connected(settings) as broker:
        return document_of(await ask(broker, letters_subject(settings.namespace), document))


async def with_payloads(settings: Settings, letters: list[Letter], documents: list[Document]) -> None:
    """Adds what was sent in the place of key events, as far as the feed has it; without NATS that is left out."""
    try:
        async with connected(settings) as broker:
            await add_payloads(broker, letters, documents)
    except (Unavailable, BrokerMisconfigured) as error:
        typer.echo(f"what was sent is left out, since the feed can't be read: {plain(error)}", err=True)


def show_counts(counts: list[Document]) -> None:
    """A line for each stream and reason."""
    for count in counts:
        stream = f"{count['source']}.{count['stream']}" if count["source"] else "-"
        span = f"{str(count['first_failed_at'])[:19]} … {str(count['last_failed_at'])[:19]}"
        typer.echo(f"{count['letters']:>8} {plain(count['reason']):<20} {plain(stream):<32} {span}")


def show_one(document: Document) -> None:
    """Prints a dead letter, a field a line."""
    detail = cast("Document", document["detail"])
    for name, value in document.items():
        if name != "detail" and value is not None:
            typer.echo(f"{name:<16} {plain(value)}")
    for name, value in detail.items():
        typer.echo(f"  {name:<14} {plain(value)}")
    typer.echo("")
