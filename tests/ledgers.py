"""A ledger with as many rows as one likes: the keys that a landing of ten streams would have brought, day after day.

The rows are made by one statement, and the same keys and etags here, so that a test can list what the ledger has.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from consumer.objects import ListedObject
from feeders.lake import Lake
from tests.probes import STREAM

BUCKET = "landing"
STREAMS = 10
KEYS_A_DAY = 2000
FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
ROWS_A_FILE = 50_000
"""Of the ledger's files. Merges of the files that single commits leave make such ones of 4 MB: 32 of 128 KiB."""
_DAY_S = 86_400


def fill(lake: Lake, rows: int, *, rows_a_file: int = ROWS_A_FILE) -> None:
    """Adds so many rows to a ledger that has none of these keys: each a key of its own, loaded one after the other."""
    for begin in range(0, rows, rows_a_file):
        lake.query(
            _FILL,
            (
                STREAM.id.source,
                STREAM.id.stream,
                FIRST_DAY.isoformat(),
                BUCKET,
                begin,
                min(rows, begin + rows_a_file),
            ),
        )


_FILL = f"""
INSERT INTO meta.feeder_files (source, stream, bucket, key, etag, size_bytes, last_modified, rows, rescued_rows,
    action, found_by, epoch, loaded_at)
SELECT $1, stream, $4, 'raw/' || $1 || '/' || stream || strftime(moment, '/year=%Y/month=%m/day=%d/') || md5(i::VARCHAR)
    || '.parquet', md5('etag ' || i), 20000, moment, 1000, 0, 'loaded', 'seaweedfs', 1, moment
FROM (
    SELECT
        i,
        $2 || CASE WHEN i % {STREAMS} = 0 THEN '' ELSE '_' || i % {STREAMS} END AS stream,
        $3::TIMESTAMPTZ + to_seconds(i // {KEYS_A_DAY} * {_DAY_S} + i % {KEYS_A_DAY}) AS moment
    FROM range($5, $6) AS numbers (i)
)
"""


def key_of(number: int) -> str:
    """The key of the ledger's row with this number, from 0 on."""
    stream = STREAM.id.stream + (f"_{number % STREAMS}" if number % STREAMS else "")
    day = datetime.fromtimestamp(FIRST_DAY.timestamp() + number // KEYS_A_DAY * _DAY_S, UTC)
    name = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    return f"raw/{STREAM.id.source}/{stream}/{day:year=%Y/month=%m/day=%d}/{name}.parquet"


def etag_of(number: int) -> str:
    """The etag of that row."""
    return hashlib.md5(f"etag {number}".encode(), usedforsecurity=False).hexdigest()


def listing(rows: int) -> Iterator[ListedObject]:
    """What a bucket lists that has the objects of so many rows: folder by folder, as SeaweedFS does it."""
    for stream in range(STREAMS):
        for day in range(0, rows, KEYS_A_DAY):
            numbers = range(day + stream, min(rows, day + KEYS_A_DAY), STREAMS)
            for key, number in sorted((key_of(number), number) for number in numbers):
                yield ListedObject(key=key, etag=etag_of(number), size_bytes=20_000, last_modified=FIRST_DAY)
