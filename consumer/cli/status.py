"""`lotus-lake status`: how healthy the lake is, and what waits in the queue.

The lake's part is read from the catalog's own tables, so it is there in milliseconds, with or without a service.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from consumer.cli.asking import connected, plain
from consumer.cli.common import errors_shown
from consumer.definitions import load_definitions
from consumer.errors import Misconfigured, Unavailable
from consumer.pending import Pending, pending_keys
from consumer.settings import Settings, load_settings
from feeders.health import LakeHealth, TableHealth, look
from feeders.streams import StreamTable

SCHEMA = "lotus-lake.status/1"
"""docs/status.schema.json has its fields."""
WIDTH = 1000
"""A table of the lake is one line, whatever the terminal's width: nothing is folded or cut."""
COLUMNS = ("files", "size", "rows", "small files", "with deletions", "deleted rows", "oldest snapshot")


def status(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, on one line.")
    ] = False,
) -> None:
    """Show how healthy the lake is: files, deletions and snapshots by table, and the keys that wait."""
    with errors_shown():
        settings = load_settings()
        streams = load_definitions(settings).streams
        health = look(settings.catalog, settings.maintenance_policy.tiers)
        if not as_json:
            show_lake(health, now=datetime.now(UTC))  # before NATS, which may have to be waited for
        pending: list[Pending] | None = None
        trouble: Unavailable | Misconfigured | None = None
        try:
            pending = asyncio.run(ask_queue(settings, streams))
        except (Unavailable, Misconfigured) as error:
            trouble = error
        if as_json:
            typer.echo(json.dumps(document_of(health, pending)))
        else:
            typer.echo(f"pending keys     {words_of(pending)}")
        if trouble is not None:
            raise trouble


async def ask_queue(settings: Settings, streams: StreamTable) -> list[Pending]:
    """Counts the keys in the queue.

    Raises:
        Unavailable: NATS does not answer.
        Misconfigured: it refuses us, or has no queue of this namespace.
    """
    async with connected(settings) as broker:
        if await broker.queue_made_at() is None:
            raise Misconfigured(
                f"NATS has no queue of the namespace {settings.namespace}",
                hint="is LOTUS_NAMESPACE that of the service? `lotus-lake run` makes the queue",
            )
        return [each async for each in pending_keys(broker, (stream.id for stream in streams))]


def document_of(health: LakeHealth, pending: Sequence[Pending] | None) -> dict[str, object]:
    """What --json prints; `pending` is None if NATS could not be asked."""
    return {
        "schema": SCHEMA,
        "tables": [row_of(table) for table in health.tables],
        "snapshots": {
            "count": health.snapshots,
            "oldest_at": written(health.oldest_snapshot_at),
            "newest_at": written(health.newest_snapshot_at),
        },
        "removable_files": health.removable_files,
        "removable_since": written(health.removable_since),
        "pending": None if pending is None else [pending_of(each) for each in pending],
    }


def pending_of(pending: Pending) -> dict[str, object]:
    """Keys of a stream in the queue, for --json."""
    return {**asdict(pending), "oldest_at": written(pending.oldest_at)}


def row_of(table: TableHealth) -> dict[str, object]:
    """A table of the lake, for --json."""
    return {
        "schema": table.schema,
        "table": table.table,
        "files": table.files,
        "bytes": table.bytes,
        "rows": table.rows,
        "small_files": table.small_files,
        "files_with_deletes": table.files_with_deletes,
        "deleted_rows": table.deleted_rows,
        "oldest_snapshot": table.oldest_snapshot,
        "oldest_snapshot_at": written(table.oldest_snapshot_at),
    }


def written(at: datetime | None) -> str | None:
    """A time in UTC, to the microsecond: DuckDB finds the snapshot of that very time."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="microseconds")


def show_lake(health: LakeHealth, *, now: datetime) -> None:
    """A line for each table, and what is common to them."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("table")
    for name in COLUMNS:
        shown.add_column(name, justify="right")
    for table in health.tables:
        shown.add_row(
            Text(plain(f"{table.schema}.{table.table}")),
            f"{table.files:,}",
            decimal(table.bytes),
            f"{table.rows:,}",
            f"{table.small_files:,}",
            f"{table.files_with_deletes:,}",
            f"{table.deleted_rows:,}",
            f"{table.oldest_snapshot} ({age(table.oldest_snapshot_at, now=now)})",
        )
    Console(highlight=False, width=WIDTH).print(shown)
    oldest, since = health.oldest_snapshot_at, health.removable_since
    how_old = f", the oldest {age(oldest, now=now)} old" if oldest is not None else ""
    how_long = f", waiting for up to {age(since, now=now)}" if since is not None else ""
    typer.echo(f"\nsnapshots        {health.snapshots:,}{how_old}")
    typer.echo(f"removable files  {health.removable_files:,}{how_long}")


def words_of(pending: Sequence[Pending] | None) -> str:
    """The streams that have keys in the queue, and how many."""
    if pending is None:
        return "unknown"
    return ", ".join(map(keys_of, (each for each in pending if each.waiting or each.claimed))) or "none"


def keys_of(each: Pending) -> str:
    """A stream and its keys."""
    name = each.source if each.stream == "_" else f"{each.source}.{each.stream}"
    in_work = f" ({each.claimed:,} in work)" if each.claimed else ""
    return f"{plain(name)} {each.waiting + each.claimed:,}{in_work}"


def age(at: datetime, *, now: datetime) -> str:
    """How long ago that is, in the largest unit of which it is two or more."""
    seconds = max(0, int((now - at).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
