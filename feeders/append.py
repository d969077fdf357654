"""THE TRANSACTION: rows, ledger and cursors of a batch, all of it or nothing.

Everything that decides is read inside the transaction. A decision made before BEGIN loads a key twice when
two writers overlap (tests/integration/test_foundation_fence.py).
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from feeders import fault
from feeders.cursors import Cursor, read_cursors, replace_cursors
from feeders.epoch import Epoch, require_epoch
from feeders.failures import Failure, record_failure, resolve_failures
from feeders.lake import StatementFailed, Transaction
from feeders.ledger import (
    Action,
    KeyState,
    LedgerClock,
    LedgerEntry,
    ObjectVersion,
    latest_states,
    write_entries,
)
from feeders.streams import LOADER_COLUMNS, Stream, StreamId
from feeders.types import quote_identifier
from feeders.work import Applied, Load, Outcome, Removal, Work

FILE_PATH = "_lotus_path"
"""The column in which read_parquet gives the path of each row's file; no column of a stream has this name."""


PREFETCH_MOST_BYTES = 4 * 1024**2
"""A file up to here is read in one piece: DuckDB caches what it reads, also what is in the spool and never read again.

In one piece for each column a file of 30 kB took 500 kB of the cache, and left an entry for each piece until the
instance is closed (duckdb/duckdb #22730). In one piece a row group has to fit into DuckDB's memory: so no large file.
"""


def apply_batch(
    transaction: Transaction,
    batch: Sequence[Work],
    *,
    epoch: Epoch,
    clock: LedgerClock,
    open_failures: set[tuple[str, str]],
) -> tuple[Applied, ...]:
    """Applies a batch inside an open transaction; the caller commits.

    Args:
        transaction: an open transaction of the writer's thread.
        batch: at most one Load or Removal for each (bucket, key).
        epoch: this writer's term.
        clock: gives the ledger's timestamps.
        open_failures: the keys that have an open dead letter.

    Returns:
        One result for each item, in order.

    Raises:
        LakeFenced: another process writes now.
        LakeUnavailable, LakeConflict, StatementFailed: see feeders.lake; nothing of the batch is kept.
    """
    fault.point("begun")
    objects = [item for item in batch if not isinstance(item, Failure)]
    # 1. Is this still our term?
    require_epoch(transaction, epoch)
    # 2. Where do the batch's streams stand? What does the ledger say of each key that is not above its cursor?
    cursors = read_cursors(transaction, sorted({item.stream.id for item in objects})) if objects else {}
    states = latest_states(
        transaction, [k for i in objects if not cursors[i.stream.id].is_below((k := key_of(i))[1])]
    )
    # 3. Decide.
    decided = [(item, decide(item, states.get(key_of(item)))) for item in objects]
    # 4. Rows that go: of replaced, replayed and removed objects.
    delete_rows(
        transaction, [item for item, outcome in decided if must_delete(outcome, states.get(key_of(item)))]
    )
    # 5. Rows that come, checked against the counts of the files' footers.
    insert_rows(transaction, [i for i, o in decided if isinstance(i, Load) and o in _INSERTING])
    fault.point("rows written")
    # 6. The ledger, 7. the cursors (this DELETE is the fence), 8. the dead letters.
    entries = [entry for i, o in decided if (entry := ledger_entry(i, o, states.get(key_of(i)))) is not None]
    write_entries(transaction, entries, epoch=epoch, loaded_at=clock.now())
    fault.point("ledger written")
    if entries:
        replace_cursors(transaction, advance(cursors, decided, entries))
    fault.point("cursors written")
    buried = [item for item in objects if key_of(item) in open_failures]
    gone = [key_of(item) for item in buried if isinstance(item, Removal)]
    loaded = [key_of(item) for item in buried if isinstance(item, Load)]
    resolve_failures(transaction, keys=loaded, resolution="loaded")
    resolve_failures(transaction, keys=gone, resolution="removed")
    for item in batch:
        if isinstance(item, Failure):
            record_failure(transaction, item)
    outcomes = iter(decided)
    return tuple(
        Applied(outcome=Outcome.RECORDED) if isinstance(item, Failure) else applied(*next(outcomes))
        for item in batch
    )


_INSERTING = (Outcome.LOADED, Outcome.REPLACED, Outcome.REPLAYED)


def key_of(item: Load | Removal) -> tuple[str, str]:
    """The (bucket, key) of a work item."""
    match item:
        case Load():
            return item.version.bucket, item.version.key
        case Removal():
            return item.bucket, item.key
        case _:
            assert_never(item)


def decide(item: Load | Removal, state: KeyState | None) -> Outcome:
    """Decides what an item means for a key in this state. Pure; `state` is the ledger's latest row."""
    present = state is not None and state.is_present
    match item:
        case Load(replay=request) if request is not None:
            return Outcome.REPLAYED
        case Load(version=version):
            if not present:
                return Outcome.LOADED
            return Outcome.DUPLICATE if state is not None and state.etag == version.etag else Outcome.REPLACED
        case Removal():
            return Outcome.REMOVED if present else Outcome.ABSENT
        case _:
            assert_never(item)


def must_delete(outcome: Outcome, state: KeyState | None) -> bool:
    """Says whether rows of the key have to go first. Of a replay whatever the ledger says: it may be what is wrong."""
    present = state is not None and state.is_present
    return outcome is Outcome.REPLAYED or (present and outcome in (Outcome.REPLACED, Outcome.REMOVED))


def delete_rows(transaction: Transaction, items: Sequence[Load | Removal]) -> None:
    """Deletes the rows of these objects from their staging tables."""
    by_stream: defaultdict[StreamId, list[Load | Removal]] = defaultdict(list)
    for item in items:
        by_stream[item.stream.id].append(item)
    for group in by_stream.values():
        keys = [key_of(item)[1] for item in group]
        transaction.change(
            f"DELETE FROM {qualified(group[0].stream)}"
            " WHERE _source_file BETWEEN ? AND ? AND _source_file IN (SELECT unnest(?))",
            (min(keys, key=str.encode), max(keys, key=str.encode), keys),
        )


def insert_rows(transaction: Transaction, loads: Sequence[Load]) -> None:
    """Inserts the rows of these objects, one INSERT for each stream and shape of file.

    Raises:
        StatementFailed: a file can't be read, or gave another number of rows than its footer claims.
    """
    groups: defaultdict[tuple[StreamId, str], list[Load]] = defaultdict(list)
    for load in loads:
        if load.plan.rows:
            groups[load.stream.id, load.plan.signature].append(load)
    for group in groups.values():
        expected = sum(load.plan.rows for load in group)
        is_small = all(load.plan.path.stat().st_size <= PREFETCH_MOST_BYTES for load in group)
        transaction.query(f"SET prefetch_all_parquet_files = {str(is_small).lower()}")
        inserted = transaction.change(insert_statement(group[0]), insert_parameters(group))
        if inserted != expected:
            raise StatementFailed(
                "RowCount", f"{len(group)} files gave {inserted} rows, their footers claim {expected}"
            )


def insert_statement(load: Load) -> str:
    """The INSERT for files of this load's stream and shape; every name in it is from the stream's DDL or quoted."""
    names = [column.name for column in load.stream.columns]
    loader = {column.name for column in LOADER_COLUMNS}
    targets = ", ".join(quote_identifier(name) for name in names)
    sources = {name: f"file.{quote_identifier(name)}" for name in names} | dict(load.plan.projection)
    sources |= {name: f"landed.{quote_identifier(name)}" for name in loader - {"_rescued_data"}}
    return (
        f"INSERT INTO {qualified(load.stream)} ({targets}) SELECT {', '.join(sources[name] for name in names)}"
        f" FROM read_parquet(?, filename = '{FILE_PATH}', hive_partitioning = false, union_by_name = false,"
        " binary_as_string = true) AS file"
        f" JOIN (SELECT unnest(from_json(?, '{_LANDED}'), recursive := true)) AS landed"
        f" ON file.{FILE_PATH} = landed.path"
    )


def insert_parameters(group: Sequence[Load]) -> tuple[object, ...]:
    """The bound values of `insert_statement` for these files."""
    landed = [
        {
            "path": str(load.plan.path),
            "_source_file": load.version.key,
            "year": load.partition.year,
            "month": load.partition.month,
            "day": load.partition.day,
        }
        for load in group
    ]
    # As text: to bind a list takes DuckDB's client up to 0.3 ms for each element.
    return [str(load.plan.path) for load in group], json.dumps(landed)


_LANDED = json.dumps(
    [{"path": "VARCHAR", "_source_file": "VARCHAR", "year": "BIGINT", "month": "VARCHAR", "day": "VARCHAR"}]
)


def qualified(stream: Stream) -> str:
    """The stream's staging table, quoted."""
    return f"staging.{quote_identifier(stream.table)}"


def ledger_entry(item: Load | Removal, outcome: Outcome, state: KeyState | None) -> LedgerEntry | None:
    """The ledger's row for what was decided; None where nothing changed."""
    match item:
        case Load() if outcome in _INSERTING:
            return LedgerEntry(
                stream=item.stream.id,
                version=item.version,
                rows=item.plan.rows,
                rescued_rows=item.plan.rescued_rows,
                action=_ACTIONS[outcome],
                found_by=item.found_by,
                requested_by=item.replay.by if item.replay else None,
                reason=item.replay.reason if item.replay else None,
            )
        case Removal() if state is not None and outcome is Outcome.REMOVED:
            return LedgerEntry(
                stream=item.stream.id,
                version=ObjectVersion(
                    bucket=item.bucket,
                    key=item.key,
                    etag=state.etag,
                    version_id=None,
                    size_bytes=0,
                    last_modified=None,
                ),
                rows=0,
                rescued_rows=0,
                action="removed",
                found_by=item.found_by,
                requested_by=None,
                reason=None,
            )
        case _:
            return None


_ACTIONS: Mapping[Outcome, Action] = {
    Outcome.LOADED: "loaded",
    Outcome.REPLACED: "replaced",
    Outcome.REPLAYED: "replayed",
}


def advance(
    cursors: Mapping[StreamId, Cursor],
    decided: Sequence[tuple[Load | Removal, Outcome]],
    entries: Sequence[LedgerEntry],
) -> dict[StreamId, Cursor]:
    """The cursors of the streams that changed, after these entries."""
    days = {key_of(item): item.partition.date() for item, _ in decided}
    moved: dict[StreamId, Cursor] = {}
    for entry in entries:
        before = moved.get(entry.stream, cursors[entry.stream])
        if entry.action == "removed":
            moved[entry.stream] = replace(before)
            continue
        key = entry.version.key
        moved[entry.stream] = before.advanced(
            [(key, days[entry.version.bucket, key])], files=1, rows=entry.rows
        )
    return moved


def applied(item: Load | Removal, outcome: Outcome) -> Applied:
    """What the consumer is told of one item."""
    if isinstance(item, Load) and outcome in _INSERTING:
        return Applied(outcome=outcome, rows=item.plan.rows, rescued_rows=item.plan.rescued_rows)
    return Applied(outcome=outcome)
