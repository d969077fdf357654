"""Damages real Parquet files and gives them to every reader of ours, as a process: a crash is its end.

`python -m tests.mangle FOLDER FIRST COUNT` prints what became of them as JSON. FOLDER keeps the file that was
being read, and its seed is in `seed` there.
"""

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from feeders.catalog import Catalog
from feeders.lake import LakeConfig, ObjectStore, StatementFailed, memory_connection, run
from feeders.parquet import BadFile, Limits, inspect
from feeders.schema import LoadPlan, plan_load
from feeders.streams import Stream
from tests.lakes import definitions
from tests.rss import Memory

CORPUS = sorted(
    path
    for path in (Path(__file__).parent / "data" / "parquet").glob("*.parquet")
    if "empty" not in path.name
)
LIMITS = Limits(max_unpacked_bytes=1024**3)
MIB = 1024**2


def mangle(seed: int) -> tuple[bytes, Path]:
    """A file of the corpus with some of its bytes changed, in its pages, its footer or anywhere."""
    chance = random.Random(seed)
    path = chance.choice(CORPUS)
    data = bytearray(path.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    low, high = chance.choice([(4, footer), (footer, len(data) - 8), (4, len(data) - 4)])
    for _ in range(chance.choice([1, 1, 1, 2, 4, 8, 20])):
        at = chance.randrange(low, high)
        match chance.randrange(6):
            case 0 | 1:
                data[at] = chance.randrange(256)
            case 2:
                data[at] ^= 1 << chance.randrange(8)
            case 3:
                data[at] = chance.choice([0, 0x7F, 0x80, 0xFF])
            case 4:
                size = min(4, high - at)
                data[at : at + size] = chance.choice([b"\xff\xff\xff\x7f", bytes(4), b"\xff" * 4])[:size]
            case _:
                size = min(chance.randrange(1, 64), high - at)
                source = chance.randrange(4, len(data) - size)
                data[at : at + size] = data[source : source + size]
    return bytes(data), path


def stream_of(path: Path, streams: list[Stream]) -> Stream:
    """The stream whose files the name of a corpus file says that it is one of."""
    return next((each for each in streams if path.stem.endswith(each.id.stream)), streams[0])


def read_with_duckdb(connection: Any, plan: LoadPlan) -> str:
    """Reads what the writer would read; returns how it went."""
    expressions = ", ".join(expression for _, expression in plan.projection)
    sql = f"SELECT count(*) FROM (SELECT hash({expressions}) FROM read_parquet(?, binary_as_string = true) AS file)"
    try:
        run(connection, sql, (str(plan.path),))
    except StatementFailed as error:
        return f"duckdb: {error.kind}"
    return "read"


def main(folder: Path, first: int, count: int) -> None:
    catalog = Catalog(host="", port=1, database="", user="", password="")
    store = ObjectStore(endpoint="", access_key_id="", secret_access_key="")
    config = LakeConfig(
        catalog=catalog,
        store=store,
        data_path="",
        instance="",
        memory_limit_bytes=256 * MIB,
        threads=1,
        temp_directory=folder / "duckdb",
    )
    connection = memory_connection(config)
    streams = list(definitions().streams)
    path, outcomes = folder / "mangled.parquet", Counter[str]()
    slowest = 0.0
    for seed in range(first, first + count):
        data, source = mangle(seed)
        path.write_bytes(data)
        (folder / "seed").write_text(str(seed))
        columns = stream_of(source, streams).columns
        began = time.process_time()
        try:
            footer = inspect(path, LIMITS)
            plain = plan_load(path, footer, columns, work_dir=folder)
            outcomes[read_with_duckdb(connection, plain) if plain.rows else "no rows"] += 1
            outcomes[f"careful: {plan_load(path, footer, columns, work_dir=folder, careful=True).kind}"] += 1
        except BadFile as error:
            outcomes[error.reason] += 1
        slowest = max(slowest, time.process_time() - began)
    # Not getrusage: its peak is also that of the process which started this one.
    peak = Memory.of().peak_mib
    print(json.dumps({"outcomes": outcomes, "slowest_s": slowest, "peak_mib": peak}))  # noqa: T201 - its answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
