"""`lotus-lake status`: how everything is, told by the writer, or without one by the lake and the queue."""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from consumer.broker import Broker
from consumer.cli.asking import connected, plain
from consumer.cli.common import WRONG_ENVIRONMENT, errors_shown, fail
from consumer.definitions import Definitions, load_definitions
from consumer.election import new_instance_name
from consumer.errors import LotusError, Misconfigured, NoResponder, Unavailable
from consumer.pending import Pending, pending_keys
from consumer.settings import Settings, load_settings
from consumer.status import SCHEMA, OfTerm, Seen, document_of
from consumer.stream_state import Role
from consumer.subjects import status_subject
from feeders.errors import LakeError
from feeders.health import look
from feeders.lake import Lake
from feeders.standing import Standing, read_standing

WIDTH = 1000
"""A row of a table is one line, whatever the terminal's width: nothing is folded or cut."""
ANSWER_S = 10.0
Part = dict[str, Any]


def status(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, on one line.")
    ] = False,
) -> None:
    """Show how everything is: streams, models, tables and the service; 3 if a part of it can't be told."""
    with errors_shown():
        settings = load_settings()
        document, trouble = asyncio.run(find_out(settings, load_definitions(settings)))
        if as_json:
            typer.echo(json.dumps(document))
        else:
            show(document, now=datetime.now(UTC))
        if trouble is not None:
            raise trouble
        if missing := cast("list[Part]", document["missing"]):
            told = "; ".join(f"{each['part']}: {plain(each['reason'])}" for each in missing)
            fail(f"not all could be told: {told}", WRONG_ENVIRONMENT, hint="`lotus-lake check` looks at each")


async def find_out(settings: Settings, definitions: Definitions) -> tuple[Part, LotusError | None]:
    """Asks the writer, or looks itself if none answers. Returns what is wrong with NATS, too.

    Raises:
        LakeError: PostgreSQL can't be asked, or has no lake.
    """
    trouble: LotusError | None = None
    queue: list[Pending] | None = None
    role = Role.UNKNOWN
    try:
        async with connected(settings) as broker:
            try:
                if (answer := await ask_writer(broker)) is not None:
                    return answer, None
                role = Role.NONE
            except Unavailable as error:
                trouble = error
            queue = await count_keys(broker, settings, definitions)
    except (Unavailable, Misconfigured) as error:
        trouble = error
    health = look(settings.catalog, settings.maintenance_policy.tiers)
    standing: Standing | None = None
    missing: dict[str, str] = {} if trouble is None else {"queue": str(trouble)}
    try:
        standing = await asyncio.to_thread(read_lake, settings)
    except LakeError as error:
        missing["lake"] = str(error)
    seen = Seen(
        role=role,
        process=None,
        of_term=OfTerm(),
        queue=queue,
        catalog=health,
        lake=standing,
        missing=missing,
    )
    return document_of(seen, definitions, now=datetime.now(UTC)), trouble


async def ask_writer(broker: Broker) -> Part | None:
    """What the writer answers; None if there is none, or one of another version.

    Raises:
        Unavailable: it did not answer in time.
    """
    try:
        reply = await broker.ask(status_subject(broker.config.namespace), b"", timeout_s=ANSWER_S)
    except NoResponder:
        return None
    if reply.error is not None:
        raise Unavailable("the writer", reply.error)
    document = cast("Part", json.loads(reply.body))
    return document if document.get("schema") == SCHEMA else None


async def count_keys(broker: Broker, settings: Settings, definitions: Definitions) -> list[Pending]:
    """Counts the keys in the queue.

    Raises:
        Unavailable: NATS does not answer.
        Misconfigured: it refuses us, or has no queue of this namespace.
    """
    if await broker.queue_made_at() is None:
        raise Misconfigured(
            f"NATS has no queue of the namespace {settings.namespace}",
            hint="is LOTUS_NAMESPACE that of the service? `lotus-lake run` makes the queue",
        )
    return [each async for each in pending_keys(broker, (stream.id for stream in definitions.streams))]


def read_lake(settings: Settings) -> Standing:
    """Reads the lake's own tables, in a DuckDB of its own. Raises LakeError."""
    with tempfile.TemporaryDirectory(prefix="lotus-lake-status-") as folder:
        instance = new_instance_name("c")
        config = replace(settings.lake(instance), may_create=False, temp_directory=Path(folder))
        lake = Lake(config)
        try:
            return read_standing(lake, now=datetime.now(UTC))
        finally:
            lake.close()


def show(document: Part, *, now: datetime) -> None:
    """Tables of streams, models and tables, and what is common to them."""
    show_streams(document["streams"], now=now)
    if document["models"] is not None:
        show_models(document["models"], now=now)
    if document["tables"] is not None:
        show_tables(document["tables"], now=now)
    process, writer = document["process"], document["writer"]
    if process is None:
        typer.echo("service          none answers")
    else:
        since = f" for {age(process['writer_since'], now=now)}" if process["writer_since"] else ""
        trouble = f", not ready: {plain(process['not_ready'])}" if process["not_ready"] else ""
        typer.echo(f"service          {plain(process['version'])}, {plain(process['role'])}{since}{trouble}")
    if writer is not None:
        typer.echo(f"last writer      {plain(writer['instance'])}, since {age(writer['since'], now=now)}")
    if (snapshots := document["snapshots"]) is not None:
        oldest, since = snapshots["oldest_at"], document["removable_since"]
        how_old = f", the oldest {age(oldest, now=now)} old" if oldest else ""
        how_long = f", waiting for up to {age(since, now=now)}" if since else ""
        typer.echo(f"snapshots        {snapshots['count']:,}{how_old}")
        typer.echo(f"removable files  {document['removable_files']:,}{how_long}")
    typer.echo(f"pending keys     {words_of(document['pending'])}")


def show_streams(streams: list[Part], *, now: datetime) -> None:
    """A line for each stream."""
    shown = a_table(
        "stream", "state", right=("pending", "oldest", "last commit", "files today", "rows today", "dead")
    )
    for each in streams:
        dead = (
            None if each["dead_letters"] is None else sum(letter["count"] for letter in each["dead_letters"])
        )
        shown.add_row(
            Text(plain(f"{each['source']}.{each['stream']}")),
            Text(f"{each['state']}: {plain(each['reason'])}"),
            number(each["pending"]),
            ago(each["oldest_pending_at"], now=now),
            ago(each["last_commit_at"], now=now),
            number(each["files_today"]),
            number(each["rows_today"]),
            number(dead),
        )
    put(shown)


def show_models(models: list[Part], *, now: datetime) -> None:
    """A line for each model."""
    shown = a_table("model", "state", right=("last run",))
    for each in models:
        shown.add_row(
            Text(plain(each["model"])), Text(state_of_model(each, now=now)), ago(each["last_run_at"], now=now)
        )
    put(shown)


def state_of_model(model: Mapping[str, Any], *, now: datetime) -> str:
    """How a model is, in words."""
    if model["error"] is not None:
        return f"held back: {plain(model['error'])}"
    if model["is_current"]:
        return "current"
    if model["snapshot"] is None:
        return "never ran"
    since = model["behind_since"]
    return f"behind for {age(since, now=now)}" if since else "its file was changed"


def show_tables(tables: list[Part], *, now: datetime) -> None:
    """A line for each table."""
    counts = ("rows", "small_files", "files_with_deletes", "deleted_rows")
    shown = a_table(
        "table",
        right=("files", "size", "rows", "small files", "with deletions", "deleted rows", "oldest snapshot"),
    )
    for table in tables:
        shown.add_row(
            Text(plain(f"{table['schema']}.{table['table']}")),
            number(table["files"]),
            decimal(table["bytes"]),
            *(number(table[count]) for count in counts),
            f"{table['oldest_snapshot']} ({age(table['oldest_snapshot_at'], now=now)})",
        )
    put(shown)


def a_table(*left: str, right: tuple[str, ...]) -> Table:
    """An empty table without lines."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in left:
        shown.add_column(name)
    for name in right:
        shown.add_column(name, justify="right")
    return shown


def put(shown: Table) -> None:
    """Prints a table and an empty line."""
    Console(highlight=False, width=WIDTH).print(shown)
    typer.echo()


def number(value: int | None) -> str:
    """A number, or a mark that it is not known."""
    return "?" if value is None else f"{value:,}"


def words_of(pending: list[Part] | None) -> str:
    """Streams that have keys in the queue, in words."""
    if pending is None:
        return "unknown"
    return ", ".join(words_of_one(each) for each in pending if each["waiting"] + each["claimed"]) or "none"


def words_of_one(each: Part) -> str:
    """How many keys of a stream there are."""
    name = each["source"] if each["stream"] == "_" else f"{each['source']}.{each['stream']}"
    in_work = f" ({each['claimed']:,} in work)" if each["claimed"] else ""
    return f"{plain(name)} {each['waiting'] + each['claimed']:,}{in_work}"


def ago(at: str | None, *, now: datetime) -> str:
    """How long ago that is, or a dash."""
    return "-" if at is None else age(at, now=now)


def age(at: str, *, now: datetime) -> str:
    """How long ago that is, in the largest unit of which it is two or more."""
    seconds = max(0, int((now - datetime.fromisoformat(at)).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
