"""`lotus-lake replay`: has keys loaded again, and shows how far it is."""

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from consumer.broker import Broker
from consumer.cli.asking import ask, ask_again, connected, document_of, plain, whoever
from consumer.cli.common import ANSWER_IS_NO, errors_shown, stderr
from consumer.errors import NoResponder
from consumer.settings import Settings, load_settings
from consumer.subjects import replay_status_subject, replay_subject

LOOK_EVERY_S = 0.5
UNKNOWN_ID = 404
NAMES_SHOWN = 10

Document = dict[str, object]

ByOption = Annotated[str | None, typer.Option(help="Who wants it; your login name if not given.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, on one line.")]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until all keys have their verdicts.")
]
ReasonOption = Annotated[str | None, typer.Option(help="Why; it is recorded in the ledger.")]


def replay(
    *,
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="The key of one object.")] = None,
    prefix: Annotated[str | None, typer.Option(help="All objects whose keys begin like this.")] = None,
    source: Annotated[
        str | None, typer.Option(help="With --stream, --from and --to: a stream's days.")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="The stream's name.")] = None,
    first: Annotated[str | None, typer.Option("--from", metavar="DAY", help="First day, YYYY-MM-DD.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day.")] = None,
    dead: Annotated[
        str | None, typer.Option(metavar="REASON", help="Objects of dead letters with this reason; * is any.")
    ] = None,
    by: ByOption = None,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    wait: WaitOption = True,
) -> None:
    """Delete the rows of objects and load them again, whatever the ledger says; 1 if not all were."""
    document: Document = {
        "key": key,
        "prefix": prefix,
        "source": source,
        "stream": stream,
        "from": first,
        "to": last,
        "dead": dead,
        "by": by or whoever(),
        "reason": reason,
        "dry_run": dry_run or None,
    }
    run_replay(document, as_json=as_json, wait=wait)


def run_replay(document: Document, *, as_json: bool, wait: bool) -> None:
    """Asks for a replay, shows it, and ends the command with its status."""
    with errors_shown():
        answer = asyncio.run(replayed(load_settings(), document, as_json=as_json, wait=wait))
    if as_json:
        typer.echo(json.dumps(answer))
    raise typer.Exit(0 if is_good(answer) else ANSWER_IS_NO)


async def replayed(settings: Settings, document: Document, *, as_json: bool, wait: bool) -> Document:
    """Asks, and waits for the verdicts; returns the answer as it stands in the end."""
    async with connected(settings) as broker:
        with stderr.status("looking for the objects"):
            answer = document_of(await ask(broker, replay_subject(settings.namespace), document))
        if not as_json:
            show_chosen(answer)
        if wait and answer["state"] in ("queueing", "queued"):
            answer |= await followed(broker, settings.namespace, answer)
        if not as_json and answer["state"] != "dry_run":
            show_end(answer)
        return answer


async def followed(broker: Broker, namespace: str, answer: Document) -> Document:
    """Follows a request behind a progress bar until it is done, has failed, or nobody knows it any more."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr) as progress:
        bar = progress.add_task("replaying", total=whole(answer, "keys"))
        while True:
            try:
                reply = await ask_again(broker, replay_status_subject(namespace), {"id": answer["id"]})
            except NoResponder:
                return {
                    "state": "unknown",
                    "error": "the writer has ended; its successor loads what was queued",
                }
            if reply.code == UNKNOWN_ID:
                return {"state": "unknown", "error": "another process has become the writer since"}
            status = document_of(reply)
            progress.update(bar, completed=whole(status, "keys") - whole(status, "waiting"))
            if status["state"] in ("done", "failed"):
                return status
            await asyncio.sleep(LOOK_EVERY_S)


def is_good(answer: Document) -> bool:
    """Says whether there was something to load again, and all of it was, as far as was waited for."""
    if answer["state"] in ("failed", "unknown"):
        return False
    outcomes = cast("Mapping[str, int]", answer.get("outcomes") or {})
    return whole(answer, "keys") > 0 and set(outcomes) <= {"replayed"}


def show_chosen(answer: Document) -> None:
    """Says what was found."""
    keys = whole(answer, "keys")
    typer.echo(
        f"{keys:,} keys, {whole(answer, 'rows_in_staging'):,} rows in staging now,"
        f" {whole(answer, 'rows_in_files'):,} rows in the files"
    )
    show_names(answer, keys)
    if uncounted := whole(answer, "files_not_counted"):
        typer.echo(f"  of {uncounted:,} files the rows were not counted")
    missing, unrouted = (cast("Document", answer[name]) for name in ("missing", "unrouted"))
    if count := whole(missing, "keys"):
        kept = whole(missing, "rows_in_staging")
        typer.echo(f"{count:,} keys are not in the bucket; their {kept:,} rows in staging stay")
        show_names(missing, count)
    if count := whole(unrouted, "keys"):
        typer.echo(f"{count:,} keys belong to no stream")
        show_names(unrouted, count)
        typer.echo(
            "hint:  a key is of the landing bucket and names one object; --prefix asks for all that begin like it",
            err=True,
        )
    if count := whole(answer, "without_object"):
        typer.echo(f"{count:,} dead letters are about no object of the landing bucket")


def show_names(document: Document, count: int) -> None:
    """Names the first keys."""
    names = cast("list[str]", document["names"])[:NAMES_SHOWN]
    for name in names:
        typer.echo(f"  {plain(name)}")
    if names and count > len(names):
        typer.echo(f"  and {count - len(names):,} more")


def show_end(answer: Document) -> None:
    """Says what became of them."""
    queued, already = whole(answer, "queued"), whole(answer, "already_queued")
    typer.echo(f"{queued:,} queued, {already:,} were in the queue already")
    for outcome, count in sorted(cast("Mapping[str, int]", answer["outcomes"]).items()):
        typer.echo(f"  {outcome:<20} {count:>10,}")
    if waiting := whole(answer, "waiting"):
        typer.echo(f"  {'waiting':<20} {waiting:>10,}")
    if answer["error"]:
        typer.echo(f"error: {plain(answer['error'])}", err=True)
        typer.echo(
            "hint:  `lotus-lake dead ls` shows what failed; the same replay can be asked for again", err=True
        )


def whole(document: Document, name: str) -> int:
    """A count of the answer."""
    value = document.get(name)
    return value if isinstance(value, int) else 0
