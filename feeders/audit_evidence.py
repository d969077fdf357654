"""What explains or disproves an audit's facts: messages in the queue, and the footers of the objects."""

import json
from collections.abc import Sequence
from typing import Literal

from feeders.auditing import Seen
from feeders.reader import Queryable
from feeders.streams import StreamId

FooterVerdict = Literal["read", "changed", "unreadable"]
"""changed: the bucket has another version by now, or none. unreadable: of this version no number can be read."""


def _texts(parameter: str) -> str:
    return f"unnest(from_json({parameter}, '[\"VARCHAR\"]'))"


def begin_queue(lake: Queryable) -> None:
    """Forgets what the queue held, but not what was read of its messages."""
    lake.query("CREATE OR REPLACE TEMP TABLE in_queue (subject VARCHAR, identity VARCHAR)")


def note_queue(lake: Queryable, subjects: Sequence[tuple[str, str]]) -> None:
    """Notes messages of the queue: each one's subject and the identity in it."""
    lake.query(
        f"INSERT INTO temp.in_queue SELECT {_texts('$1')}, {_texts('$2')}",
        (
            json.dumps([subject for subject, _ in subjects]),
            json.dumps([identity for _, identity in subjects]),
        ),
    )


def end_queue(lake: Queryable) -> None:
    """Takes what was noted for what the queue holds now."""
    lake.query(
        "CREATE OR REPLACE TEMP TABLE queued AS SELECT n.subject, n.identity, q.key, q.event"
        " FROM temp.in_queue AS n LEFT JOIN temp.queued AS q ON n.subject = q.subject"
    )


def match_queue(lake: Queryable, names: Sequence[tuple[str, str, str]]) -> None:
    """Finds out which messages are about these: (key, "created" or "removed", identity)."""
    columns = [json.dumps(column) for column in zip(*names, strict=True)]
    lake.query(
        f"UPDATE temp.queued SET key = n.key, event = n.event FROM (SELECT {_texts('$1')} AS key,"
        f" {_texts('$2')} AS event, {_texts('$3')} AS identity) AS n WHERE queued.identity = n.identity",
        columns,
    )


def unread_messages(lake: Queryable, *, after: str, size: int) -> list[str]:
    """Gives the next subjects of messages of which nobody knows yet what they are about."""
    return [
        subject
        for (subject,) in lake.query(
            "SELECT subject FROM temp.queued WHERE key IS NULL AND subject > ? ORDER BY subject LIMIT ?",
            (after, size),
        )
    ]


def note_messages(lake: Queryable, messages: Sequence[tuple[str, str, str]]) -> None:
    """Notes what messages are about: (subject, key, "created" or "removed"); an empty key is none of ours."""
    columns = [json.dumps(column) for column in zip(*messages, strict=True)]
    lake.query(
        f"UPDATE temp.queued SET key = n.key, event = n.event FROM (SELECT {_texts('$1')} AS subject,"
        f" {_texts('$2')} AS key, {_texts('$3')} AS event) AS n WHERE queued.subject = n.subject",
        columns,
    )


def explain_by_queue(lake: Queryable) -> int:
    """Explains keys by what waits in the queue; returns how many still differ."""
    for state, event, explained in (("missing", "created", "pending"), ("gone", "removed", "leaving")):
        lake.query(
            "UPDATE temp.facts SET state = ? WHERE state = ?"
            " AND key IN (SELECT key FROM temp.queued WHERE event = ?)",
            (explained, state, event),
        )
    return int(lake.query("SELECT count(*) FROM temp.facts WHERE state IN ('missing', 'gone')")[0][0])


# The footers


def begin_footers(lake: Queryable) -> int:
    """Puts the objects up whose footers are to be read: those that are loaded; returns how many they are."""
    lake.query(
        "CREATE OR REPLACE TEMP TABLE to_read AS SELECT row_number() OVER () AS number, key, etag, size_bytes, source,"
        " stream FROM temp.facts WHERE state = 'loaded' AND staged IS NOT NULL"
    )
    return int(lake.query("SELECT count(*) FROM temp.to_read")[0][0])


def footers_page(lake: Queryable, *, begin: int, size: int) -> list[Seen]:
    """Gives the objects from number `begin` on, which counts from 0."""
    rows = lake.query(
        "SELECT key, etag, size_bytes, source, stream FROM temp.to_read WHERE number > ? AND number <= ?",
        (begin, begin + size),
    )
    return [
        Seen(
            key=key,
            etag=etag,
            size_bytes=size_bytes,
            modified_s=None,
            stream=StreamId(source=source, stream=stream),
        )
        for key, etag, size_bytes, source, stream in rows
    ]


def note_footers(lake: Queryable, footers: Sequence[tuple[str, int | None, FooterVerdict]]) -> None:
    """Notes what footers say: (key, rows, verdict)."""
    columns = [json.dumps(column) for column in zip(*footers, strict=True)]
    lake.query(
        f"INSERT INTO temp.footers SELECT {_texts('$1')}, unnest(from_json($2, '[\"BIGINT\"]')), {_texts('$3')}",
        columns,
    )


def end_footers(lake: Queryable) -> None:
    """Takes what the footers say for what staging has to have."""
    lake.query(
        "UPDATE temp.facts SET expected = coalesce(n.rows, expected), footer = n.verdict FROM temp.footers AS n"
        " WHERE facts.key = n.key AND facts.state = 'loaded'"
    )
