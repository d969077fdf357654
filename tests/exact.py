"""The proof that a lake holds exactly what is in the bucket: row by row, and each part against the others."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consumer.landing.compare import (
    ENGAGEMENT_SELECT_LIST,
    SALES_SELECT_LIST,
    compare_engagement,
    compare_sales,
)
from consumer.landing.engagement import expected_engagement
from consumer.landing.expected import expected_sales
from feeders.arrow import pq
from feeders.lake import Lake
from feeders.models import Model
from feeders.streams import Stream
from feeders.types import quote_identifier
from tests.bucketful import BROKEN_REASON, Bucketful
from tests.helpers import wait_until
from tests.key_queue import pending
from tests.lakes import lake_config, one

QUEUE_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of the ledger."""

    etag: str
    rows: int
    action: str


def assert_exact(bucketful: Bucketful) -> None:
    """Asserts what `assert_lake_exact` does once the queue is empty: hints may be repeated after all is loaded."""
    wait_until(
        lambda: pending(bucketful.tenant, bucketful.defined.streams) == 0,
        timeout_s=QUEUE_TIMEOUT_S,
        what="an empty queue",
    )
    assert_lake_exact(bucketful)


def assert_lake_exact(bucketful: Bucketful) -> None:
    """Asserts that the lake holds the bucket's objects, each exactly once, and agrees with itself.

    Every row of staging by `_airbyte_raw_id`; ledger and cursors against it and each other; each model against
    its own SELECT over the whole input; sales and engagement against what was computed
    without SQL; dead letters by reason.
    """
    lake = Lake(lake_config(bucketful.tenant, instance="r-exact"))
    try:
        ledger = read_ledger(lake)
        _assert_ledger(ledger, bucketful)
        for stream in bucketful.defined.streams:
            _assert_staging(lake, bucketful, ledger, stream)
            _assert_cursor(lake, ledger, stream, bucketful)
        _assert_dead_letters(lake, bucketful)
        assert_models(lake, bucketful.defined.models)
        _assert_sales(lake, bucketful)
    finally:
        lake.close()


def read_ledger(lake: Lake) -> dict[str, list[Entry]]:
    """The history of each key, the oldest first."""
    entries: dict[str, list[Entry]] = {}
    for key, etag, rows, action in lake.query(
        "SELECT key, etag, rows, action FROM meta.feeder_files ORDER BY epoch, loaded_at"
    ):
        entries.setdefault(key, []).append(Entry(etag=etag, rows=rows, action=action))
    return entries


def _assert_ledger(ledger: Mapping[str, Sequence[Entry]], bucketful: Bucketful) -> None:
    """The latest entry of each key is of its last version, and no version follows itself."""
    whole = bucketful.bodies.keys() - bucketful.broken
    assert whole <= ledger.keys(), f"never loaded: {sorted(whole - ledger.keys())}"
    known = bucketful.versions.keys()
    assert ledger.keys() <= known, f"loaded, but never whole: {sorted(ledger.keys() - known)}"
    for key, history in ledger.items():
        _assert_history(key, history, bucketful)
        last = history[-1]
        if key in whole:
            assert last.etag == bucketful.etags[key], f"{key}: {history}"
            assert last.action != "removed", f"{key}: {history}"
        elif key in bucketful.removed:
            assert last.action == "removed", f"{key}: {history}"


def _assert_history(key: str, history: Sequence[Entry], bucketful: Bucketful) -> None:
    present: str | None = None
    for entry in history:
        match entry.action:
            case "loaded" | "adopted":
                assert present is None, f"{key} was loaded twice: {history}"
            case "replaced":
                assert present not in (None, entry.etag), f"{key} replaced nothing: {history}"
            case "removed":
                assert present is not None, f"{key} was removed twice: {history}"
            case "replayed":
                pass
            case _:
                raise AssertionError(f"{key}: {history}")
        present = None if entry.action == "removed" else entry.etag
        if present is not None:
            body = bucketful.versions[key][present]
            assert entry.rows == pq.read_metadata(io.BytesIO(body)).num_rows, f"{key}: {entry}"


def _assert_staging(
    lake: Lake, bucketful: Bucketful, ledger: Mapping[str, Sequence[Entry]], stream: Stream
) -> None:
    """Staging holds the rows of what the ledger says, each once."""
    wanted: Counter[tuple[str, str]] = Counter()
    for key, history in ledger.items():
        route = bucketful.route(key)
        if route is not None and route.stream.id == stream.id and history[-1].action != "removed":
            body = bucketful.versions[key][history[-1].etag]
            ids = pq.read_table(io.BytesIO(body), columns=["_airbyte_raw_id"]).column(0).to_pylist()
            wanted.update((key, str(each)) for each in ids)
    found = Counter(lake.query(f"SELECT _source_file, _airbyte_raw_id FROM staging.{stream.table}"))
    assert found.total() == wanted.total(), f"{stream.id}: {_by_file(found)} for {_by_file(wanted)}"
    assert found == wanted, f"{stream.id}: {len(found - wanted)} rows too many, {len(wanted - found)} missing"


def _by_file(rows: Mapping[tuple[str, str], int]) -> dict[str, int]:
    files: Counter[str] = Counter()
    for (file, _), count in rows.items():
        files[file] += count
    return dict(files)


def _assert_cursor(
    lake: Lake, ledger: Mapping[str, Sequence[Entry]], stream: Stream, bucketful: Bucketful
) -> None:
    """The cursor counts what the ledger has, and is at the greatest key that was ever loaded."""
    path, files, rows = one(
        lake,
        "SELECT cursor_path, files, rows FROM meta.feeder_cursors WHERE source = ? AND stream = ?",
        (stream.id.source, stream.id.stream),
    )
    keys = [key for key in ledger if (route := bucketful.route(key)) and route.stream.id == stream.id]
    loads = [each for key in keys for each in ledger[key] if each.action != "removed"]
    counted = (len(loads), sum(each.rows for each in loads))
    assert (files, rows) == counted, f"{stream.id}: the cursor counts {files, rows}, the ledger {counted}"
    assert path == max(keys, key=str.encode, default=""), f"{stream.id}: the cursor is at {path}"


def _assert_dead_letters(lake: Lake, bucketful: Bucketful) -> None:
    dead = lake.query("SELECT key, etag, reason FROM meta.feeder_failures WHERE resolved_at IS NULL")
    wanted = [
        (key, bucketful.etags[key], bucketful.reasons.get(key, BROKEN_REASON)) for key in bucketful.broken
    ]
    assert sorted(dead) == sorted(wanted)
    ever = {key for (key,) in lake.query("SELECT DISTINCT key FROM meta.feeder_failures")}
    assert ever <= bucketful.broken | bucketful.mended, "a whole object was a dead letter for a time"


def assert_models(lake: Lake, models: Sequence[Model]) -> None:
    """Asserts that each model's table is what its SELECT gives over all that it reads, as a rebuild would."""
    for model in models:
        table = f"main.{quote_identifier(model.name)}"
        extra, missing = one(
            lake,
            f"WITH found AS MATERIALIZED (SELECT * FROM {table}), wanted AS MATERIALIZED ({model.sql}\n)"
            " SELECT (SELECT count(*) FROM (FROM found EXCEPT ALL FROM wanted)),"
            " (SELECT count(*) FROM (FROM wanted EXCEPT ALL FROM found))",
        )
        assert (extra, missing) == (0, 0), f"{model.name}: {extra} rows too many, {missing} missing"


def _assert_sales(lake: Lake, bucketful: Bucketful) -> None:
    objects = bucketful.landing.objects
    sales = lake.query(f"SELECT {SALES_SELECT_LIST} FROM main.fct_sales")
    expected = expected_sales(objects[key] for key in bucketful.bodies if key in objects)
    difference = compare_sales(expected, sales)
    assert difference.equal, difference.describe()
    engagement = lake.query(f"SELECT {ENGAGEMENT_SELECT_LIST} FROM main.fct_customer_engagement")
    profiles = expected_engagement((objects[key] for key in bucketful.bodies if key in objects), expected)
    difference = compare_engagement(profiles, engagement)
    assert difference.equal, difference.describe()
