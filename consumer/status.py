"""The one object that shows how everything is: its fields are in docs/status.schema.json."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumer.definitions import Definitions
from consumer.pending import Pending
from consumer.stream_state import Facts, Role, state_of
from feeders.health import LakeHealth, TableHealth
from feeders.letters import LetterCount
from feeders.models import Model
from feeders.standing import ModelStanding, Standing
from feeders.streams import StreamId

SCHEMA = "lotus-lake.status/2"
"""docs/status.schema.json has its fields."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """The process that is asked: `not_ready` says what it waits for, `writer_since` is None unless it writes."""

    version: str
    instance: str
    role: Role
    started_at: datetime
    writer_since: datetime | None
    not_ready: str | None


@dataclass(frozen=True, kw_only=True)
class OfTerm:
    """What only the writer knows of its streams, each in words: those that are not named are well."""

    paused: Mapping[StreamId, str] = field(default_factory=dict[StreamId, str])
    blocked: Mapping[StreamId, str] = field(default_factory=dict[StreamId, str])
    lost: Mapping[StreamId, str] = field(default_factory=dict[StreamId, str])


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was found out; a part that is None could not be, and `missing` says why.

    Attributes:
        role: as which the streams are to be judged.
        process: None without a service.
        of_term: None but of the writer.
        queue: keys in the queue.
        catalog: tables and snapshots, from the catalog alone.
        lake: what the lake's own tables say.
        missing: the name of each part that is missing, and why.
    """

    role: Role
    process: Process | None
    of_term: OfTerm
    queue: Sequence[Pending] | None
    catalog: LakeHealth | None
    lake: Standing | None
    missing: Mapping[str, str]


def document_of(seen: Seen, definitions: Definitions, *, now: datetime) -> dict[str, object]:
    """Writes the object."""
    health, standing = seen.catalog, seen.lake
    return {
        "schema": SCHEMA,
        "at": written(now),
        "process": None if seen.process is None else _process(seen.process),
        "writer": None
        if standing is None or standing.term is None
        else {
            "epoch": standing.term.epoch,
            "instance": standing.term.instance,
            "since": written(standing.term.since),
        },
        "streams": [_stream(stream.id, seen, now) for stream in definitions.streams],
        "dead_letters_of_no_stream": None if standing is None else _letters(standing.letters, None),
        "models": None if standing is None else _models(definitions, standing),
        "tables": None if health is None else [row_of(table) for table in health.tables],
        "snapshots": None
        if health is None
        else {
            "count": health.snapshots,
            "oldest_at": written(health.oldest_snapshot_at),
            "newest_at": written(health.newest_snapshot_at),
        },
        "removable_files": None if health is None else health.removable_files,
        "removable_since": None if health is None else written(health.removable_since),
        "pending": None if seen.queue is None else [pending_of(each) for each in seen.queue],
        "missing": [{"part": part, "reason": reason} for part, reason in sorted(seen.missing.items())],
    }


def _process(process: Process) -> dict[str, object]:
    return {
        "version": process.version,
        "instance": process.instance,
        "role": process.role.value,
        "not_ready": process.not_ready,
        "started_at": written(process.started_at),
        "writer_since": written(process.writer_since),
    }


def _stream(stream: StreamId, seen: Seen, now: datetime) -> dict[str, object]:
    of_term, standing = seen.of_term, seen.lake
    keys = next((p for p in seen.queue or () if (p.source, p.stream) == (stream.source, stream.stream)), None)
    cursor = None if standing is None else standing.streams.get(stream)
    today = None if standing is None else standing.today.get(stream)
    letters = [each for each in (standing.letters if standing else ()) if each.stream == stream]
    state, reason = state_of(
        Facts(
            role=seen.role,
            paused=of_term.paused.get(stream),
            blocked=of_term.blocked.get(stream),
            lost=of_term.lost.get(stream),
            oldest_pending_at=keys.oldest_at if keys else None,
            dead=tuple((each.reason, each.letters) for each in letters),
            last_dead_at=max((each.last_failed_at for each in letters), default=None),
        ),
        now=now,
    )
    return {
        "source": stream.source,
        "stream": stream.stream,
        "state": state.value,
        "reason": reason,
        "pending": None if keys is None else keys.waiting + keys.claimed,
        "oldest_pending_at": written(keys.oldest_at) if keys else None,
        "cursor": cursor.cursor if cursor else None,
        "last_commit_at": written(cursor.committed_at) if cursor and cursor.files else None,
        "files_today": None if standing is None else today.files if today else 0,
        "rows_today": None if standing is None else today.rows if today else 0,
        "dead_letters": None if standing is None else _letters(standing.letters, stream),
    }


def _letters(letters: Iterable[LetterCount], stream: StreamId | None) -> list[dict[str, object]]:
    return [
        {"reason": each.reason, "count": each.letters, "last_at": written(each.last_failed_at)}
        for each in letters
        if each.stream == stream
    ]


def _models(definitions: Definitions, standing: Standing) -> list[dict[str, object]]:
    """Models in the order in which they run: whatever one reads comes before it."""
    streams = {stream.qualified_table: stream.id for stream in definitions.streams}
    behind: dict[str, datetime | None] = {}
    stale: set[str] = set()
    shown: list[dict[str, object]] = []
    for model in definitions.models:
        found = standing.models.get(model.name)
        since = _behind_since(model, found, standing, streams, behind)
        is_current = (
            found is not None
            and since is None
            and found.error is None
            and found.snapshot is not None
            and found.sql_hash == model.sql_hash
            and not any(each.table in stale for each in model.inputs)
        )
        behind[model.table] = since
        if not is_current:
            stale.add(model.table)
        shown.append(
            {
                "model": model.name,
                "is_current": is_current,
                "behind_since": written(since),
                "snapshot": found.snapshot if found else None,
                "last_run_at": written(found.ran_at) if found else None,
                "error": found.error if found else None,
                "error_since": written(found.error_since) if found else None,
            }
        )
    return shown


def _behind_since(
    model: Model,
    found: ModelStanding | None,
    standing: Standing,
    streams: Mapping[str, StreamId],
    behind: Mapping[str, datetime | None],
) -> datetime | None:
    """The first of the commits that it lacks, of the last one of each stream; None if it has all of them."""
    upto = -1 if found is None or found.snapshot is None else found.snapshot
    lacks: list[datetime] = []
    for each in model.inputs:
        stream = streams.get(each.table)
        if stream is None:
            above = behind.get(each.table)
        else:
            cursor = standing.streams.get(stream)
            above = cursor.committed_at if cursor and cursor.files and cursor.snapshot > upto else None
        if above is not None:
            lacks.append(above)
    return min(lacks, default=None)


def pending_of(pending: Pending) -> dict[str, object]:
    """Keys in the queue, of a stream or of none."""
    return {
        "source": pending.source,
        "stream": pending.stream,
        "waiting": pending.waiting,
        "claimed": pending.claimed,
        "oldest_at": written(pending.oldest_at),
    }


def row_of(table: TableHealth) -> dict[str, object]:
    """A table of the lake."""
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
