"""How much memory does the consumer take: idle, draining 2,000 files, and with one file of 5 million wide rows?

As the kernel counts it, of the consumer's process alone, with default settings and the project's models. The peak is
the most that was resident from the start on. The aim is 512 MB for all of it.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.generate import Landing
from feeders.arrow import pa, pq
from feeders.lake import Lake
from feeders.streams import StreamId
from tests.benchmarks.figures import say, say_table, scaled
from tests.helpers import wait_until
from tests.lakes import lake_config
from tests.processes import consumer_process
from tests.rss import Memory
from tests.service import put_all

pytestmark = pytest.mark.bench
TIMEOUT_S = 1500
AIM_MIB = 512
# The file unpacks to a little more than is allowed by default.
SETTINGS = {"LOTUS_ACK_WAIT_S": "30", "LOTUS_FILE_MAX_UNPACKED_BYTES": str(16 * 1024**3)}
GROUP_ROWS = 100_000
PLACE = "raw/shopify/orders/year=2026/month=07/day=04"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Resident memory of one consumer, in MiB: before it had a key, and at the most."""

    work: str
    files: int
    rows: int
    object_mib: float
    idle_mib: int
    peak_mib: int


@pytest.fixture(scope="module")
def figures() -> Iterator[list[Figure]]:
    """The figures so far; their table is printed at the end."""
    found: list[Figure] = []
    yield found
    say_table(
        ["work", "files", "rows", "MiB an object", "idle, MiB", f"peak, MiB (aim {AIM_MIB})"],
        [
            [
                each.work,
                f"{each.files:,}",
                f"{each.rows:,}",
                f"{each.object_mib:,.1f}",
                str(each.idle_mib),
                str(each.peak_mib),
            ]
            for each in found
        ],
    )


def measured(tenant: Tenant, log: Path, work: str, *, files: int, rows: int, body: bytes) -> Figure:
    """A consumer that loads so many files of one body, and its models follow."""
    stream = StreamId(source="shopify", stream="orders")
    loaded = f'lotus_lake_files_loaded_total{{source="{stream.source}",stream="{stream.stream}"}}'
    with consumer_process(tenant, log, settings=SETTINGS) as consumer:
        consumer.wait_until_idle()
        idle = Memory.of(consumer.pid).rss_mib
        put_all(tenant, dict.fromkeys((f"{PLACE}/{number:05}.parquet" for number in range(files)), body))
        wait_until(
            lambda: consumer.ends_within(1.0) or consumer.metric(loaded) >= files,
            timeout_s=TIMEOUT_S,
            what=f"{files} files to be loaded",
        )
        reader = Lake(lake_config(tenant, instance="r-bench"))
        try:
            wait_until(lambda: models_followed(reader), timeout_s=TIMEOUT_S, what="the models")
        finally:
            reader.close()
        peak = Memory.of(consumer.pid).peak_mib
        assert consumer.terminate() == 0, consumer.tail()
    figure = Figure(
        work=work,
        files=files,
        rows=rows,
        object_mib=round(len(body) / 2**20, 2),
        idle_mib=idle,
        peak_mib=peak,
    )
    say(json.dumps({"bench": "memory", **asdict(figure)}))
    return figure


def models_followed(reader: Lake) -> bool:
    """Whether the model of the orders has all that was committed of them."""
    [(is_current,)] = reader.query(
        "SELECT (SELECT max(snapshot_id) FROM meta.transform_cursors WHERE model = 'int_shopify__orders')"
        " > (SELECT max(snapshot_id) FROM meta.feeder_cursors WHERE stream = 'orders')"
    )
    return bool(is_current)


@pytest.mark.timeout(2 * TIMEOUT_S)
def test_two_thousand_files(stack: Stack, bench_scale: float, tmp_path: Path, figures: list[Figure]) -> None:
    files = scaled(2000, bench_scale)
    body = wide_file(1000)
    figures.append(
        measured(
            stack.tenant("memoryfiles"),
            tmp_path / "consumer.log",
            "many files",
            files=files,
            rows=1000 * files,
            body=body,
        )
    )


@pytest.mark.timeout(2 * TIMEOUT_S)
def test_one_file_of_wide_rows(
    stack: Stack, bench_scale: float, tmp_path: Path, figures: list[Figure]
) -> None:
    rows = scaled(5_000_000, bench_scale)
    figures.append(
        measured(
            stack.tenant("memorywide"),
            tmp_path / "consumer.log",
            "one file",
            files=1,
            rows=rows,
            body=wide_file(rows),
        )
    )


def wide_file(rows: int) -> bytes:
    """Orders with all of their columns, in row groups as Spark or DuckDB write them; no two rows have the same id."""
    [some] = [
        pq.read_table(io.BytesIO(file.body))
        for file in Landing(seed=1, files=9, rows=2_000)
        if (file.source, file.stream) == ("shopify", "orders")
    ]
    group = pa.concat_tables([some] * (GROUP_ROWS // some.num_rows)).combine_chunks()
    place, raw_id = group.schema.get_field_index("id"), group.schema.get_field_index("_airbyte_raw_id")
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, group.schema, compression="snappy") as writer:
        for first in range(0, rows, group.num_rows):
            ids = pa.array(range(first, first + group.num_rows), pa.int64())
            numbered = group.set_column(place, group.schema.field(place), ids)
            named = numbered.set_column(raw_id, group.schema.field(raw_id), ids.cast(pa.string()))
            writer.write_table(named.slice(0, min(rows - first, named.num_rows)), row_group_size=GROUP_ROWS)
    return sink.getvalue()
