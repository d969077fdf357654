"""Where a lake stands, by its own tables: cursors, today's loads, dead letters, models, and who writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from feeders.letters import LetterCount, LetterFilter, count_letters
from feeders.reader import Queryable
from feeders.streams import StreamId


@dataclass(frozen=True, kw_only=True)
class StreamStanding:
    """A stream's cursor: its greatest key, how many files were ever loaded, and the last commit and its snapshot."""

    cursor: str | None
    files: int
    committed_at: datetime
    snapshot: int


@dataclass(frozen=True, kw_only=True)
class Loads:
    """Files that were loaded, and their rows."""

    files: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class ModelStanding:
    """What a model says of itself.

    Attributes:
        snapshot: up to it all of its inputs are in the model; None if it never ran.
        sql_hash: of the file that made it.
        ran_at: when its last run ended, also one that failed; None if that is not known.
        error: why it is held back; None if it is not.
        error_since: since when.
    """

    snapshot: int | None
    sql_hash: str | None
    ran_at: datetime | None
    error: str | None
    error_since: datetime | None


@dataclass(frozen=True, kw_only=True)
class Term:
    """The newest term of a writer: its number, whose it is and when it began."""

    epoch: int
    instance: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Standing:
    """All of it. Loads are those since `day_began_at`; dead letters are the open ones."""

    day_began_at: datetime
    term: Term | None
    streams: Mapping[StreamId, StreamStanding]
    today: Mapping[StreamId, Loads]
    letters: tuple[LetterCount, ...]
    models: Mapping[str, ModelStanding]


def read_standing(lake: Queryable, *, now: datetime) -> Standing:
    """Reads where the lake stands; today is the day of `now` in UTC. Raises LakeError."""
    began_at = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Standing(
        day_began_at=began_at,
        term=_term(lake),
        streams={
            StreamId(source=source, stream=stream): StreamStanding(
                cursor=path or None, files=files, committed_at=_moment(at), snapshot=snapshot
            )
            for source, stream, path, files, at, snapshot in lake.query(_CURSORS)
        },
        today={
            StreamId(source=source, stream=stream): Loads(files=files, rows=int(rows))
            for source, stream, files, rows in lake.query(_TODAY, (began_at.isoformat(),))
        },
        letters=tuple(count_letters(lake, LetterFilter())),
        models={
            model: ModelStanding(
                snapshot=snapshot,
                sql_hash=sql_hash,
                ran_at=None if at is None else _moment(at),
                error=error,
                error_since=None if since is None else _moment(since),
            )
            for model, snapshot, sql_hash, at, error, since in lake.query(_MODELS)
        },
    )


# What was adopted was loaded on other days, by another program.
# The loads of a day are in the newest of the ledger's files: the catalog's statistics leave the others out.
_TODAY = """
SELECT source, stream, count(*), coalesce(sum(rows), 0) FROM meta.feeder_files
WHERE loaded_at >= ?::TIMESTAMPTZ AND action IN ('loaded', 'replaced', 'replayed') AND source IS NOT NULL
GROUP BY ALL
"""
_CURSORS = (
    "SELECT source, stream, cursor_path, files, epoch_us(updated_at), snapshot_id FROM meta.feeder_cursors"
)
# A model that has an input without snapshot never had all of them.
_MODELS = """
SELECT model, CASE WHEN bool_and(snapshot_id IS NOT NULL) THEN min(snapshot_id) END, min(model_hash),
    epoch_us(max(updated_at)), max(error), epoch_us(min(error_since))
FROM meta.transform_cursors GROUP BY model
"""


def _term(lake: Queryable) -> Term | None:
    rows = lake.query(
        "SELECT epoch, instance, epoch_us(since) FROM meta.writer_epoch ORDER BY epoch DESC LIMIT 1"
    )
    return next(
        (Term(epoch=epoch, instance=instance, since=_moment(since)) for epoch, instance, since in rows), None
    )


def _moment(microseconds: int) -> datetime:
    """DuckDB's client needs another package for its own times with a zone."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
