"""A backlog that waits when the consumer starts: how fast is the whole service, held against a bare loop?

The service claims each key, gets and checks its file, writes rows, ledger and cursor in one transaction, and acks.
The bare loop is one DuckDB connection that runs INSERT … SELECT … FROM read_parquet([200 files on S3]) and commits,
nothing else, with the same objects on the same servers, before and after the service: the ratio is the figure.
"""

import io
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from feeders.arrow import pa, pq
from feeders.lake import Lake
from tests.benchmarks.figures import say
from tests.helpers import wait_until
from tests.key_queue import pending
from tests.lakes import Definitions, definitions, lake_config, start_term
from tests.processes import consumer_process
from tests.service import put_all

pytestmark = pytest.mark.bench
TABLE = "staging.stg_klaviyo__events"
FILES_A_COMMIT = 200
NO_MODELS = "no models"


@dataclass(frozen=True, kw_only=True)
class Case:
    """So many files of so many rows, with the project's models or without any."""

    files: int
    rows: int
    models: bool

    def __str__(self) -> str:
        return f"{self.files} files of {self.rows} rows, {'models' if self.models else NO_MODELS}"


CASES = (
    Case(files=2000, rows=1000, models=False),
    Case(files=200, rows=50_000, models=False),
    Case(files=10, rows=1_000_000, models=False),
    Case(files=2000, rows=1000, models=True),
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line: files and rows per second of both, and the service's share of the bare loop's speed."""

    backlog: str
    service_files_s: float
    service_rows_s: float
    bare_files_s: float
    bare_rows_s: float
    ratio: float


@pytest.fixture(scope="module")
def figures() -> Iterator[list[Figure]]:
    """The figures so far; their table is printed at the end."""
    found: list[Figure] = []
    yield found
    say(
        "\n| backlog | service, files/s | rows/s | bare loop, files/s | rows/s | ratio |\n|---|---|---|---|---|---|"
    )
    for each in found:
        numbers = (each.service_files_s, each.service_rows_s, each.bare_files_s, each.bare_rows_s)
        say(f"| {each.backlog} | {' | '.join(f'{number:,.0f}' for number in numbers)} | {each.ratio:.2f} |")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_backlog(case: Case, tenant: Tenant, tmp_path: Path, figures: list[Figure]) -> None:
    project = tmp_path / "project"
    defined = definitions()
    keys = put_case(tenant, case)
    with_table(tenant, defined)
    before_s = bare_loop(tenant, keys, case)
    service_s = service(tenant, case, project, tmp_path / "consumer.log", defined)
    after_s = bare_loop(tenant, keys, case)
    bare_s = statistics.mean((before_s, after_s))
    figure = Figure(
        backlog=str(case),
        service_files_s=round(case.files / service_s, 1),
        service_rows_s=round(case.files * case.rows / service_s),
        bare_files_s=round(case.files / bare_s, 1),
        bare_rows_s=round(case.files * case.rows / bare_s),
        ratio=round(bare_s / service_s, 3),
    )
    figures.append(figure)
    say(json.dumps(asdict(figure)))


def put_case(tenant: Tenant, case: Case) -> list[str]:
    """Puts the files, all with the same rows; returns their keys."""
    body = events(case.rows)
    place = "raw/klaviyo/events/year=2026/month=07/day=04"
    keys = [f"{place}/{number:05}.parquet" for number in range(case.files)]
    put_all(tenant, dict.fromkeys(keys, body))
    return keys


def events(rows: int) -> bytes:
    """A file of klaviyo.events as Airbyte's Parquet writer makes them, nested columns included."""
    start = datetime(2026, 7, 4, tzinfo=UTC)
    times = [start + timedelta(seconds=number) for number in range(rows)]
    names = [f"{number:026}" for number in range(rows)]
    attributes = [
        {"uuid": name, "datetime": at, "timestamp": number, "event_properties": f'{{"$value": {number}}}'}
        for number, (name, at) in enumerate(zip(names, times, strict=True))
    ]
    table = pa.table(
        {
            "_airbyte_raw_id": names,
            "_airbyte_extracted_at": pa.array(times, pa.timestamp("us", tz="UTC")),
            "id": names,
            "type": ["event"] * rows,
            "datetime": pa.array(times, pa.timestamp("us", tz="UTC")),
            "attributes": pa.array(
                attributes,
                pa.struct(
                    [
                        ("uuid", pa.string()),
                        ("datetime", pa.timestamp("us", tz="UTC")),
                        ("timestamp", pa.int64()),
                        ("event_properties", pa.string()),
                    ]
                ),
            ),
        }
    )
    body = io.BytesIO()
    pq.write_table(table, body, compression="snappy")
    return body.getvalue()


def with_table(tenant: Tenant, defined: Definitions) -> None:
    """Makes the lake's tables."""
    lake = Lake(lake_config(tenant))
    try:
        start_term(lake, defined)
    finally:
        lake.close()


def bare_loop(tenant: Tenant, keys: Sequence[str], case: Case) -> float:
    """Loads all files into a table like the stream's; returns the seconds."""
    lake = Lake(lake_config(tenant, memory_limit_bytes=512 * 1024**2))
    try:
        lake.query(f"CREATE TABLE main.bare AS FROM {TABLE} LIMIT 0")
        columns = "_airbyte_raw_id, _airbyte_extracted_at, id, type, datetime, attributes"
        insert = (
            f"INSERT INTO main.bare ({columns}, _source_file)"
            f" SELECT {columns}, filename FROM read_parquet(?, filename = true, hive_partitioning = false)"
        )
        started = time.perf_counter()
        for at in range(0, len(keys), FILES_A_COMMIT):
            urls = [f"s3://{tenant.landing_bucket}/{key}" for key in keys[at : at + FILES_A_COMMIT]]
            with lake.transaction("bare") as transaction:
                transaction.change(insert, (urls,))
        elapsed_s = time.perf_counter() - started
        assert lake.query("SELECT count(*) FROM main.bare") == [(case.files * case.rows,)]
        lake.query("DROP TABLE main.bare")
    finally:
        lake.close()
    return elapsed_s


def service(tenant: Tenant, case: Case, project: Path, log: Path, defined: Definitions) -> float:
    """Runs the consumer until all is loaded; returns the seconds since it became the writer."""
    settings = {} if case.models else {"LOTUS_PROJECT_DIR": str(without_models(project))}
    loaded = 'lotus_lake_files_loaded_total{source="klaviyo",stream="events"}'
    with consumer_process(tenant, log, settings=settings) as consumer:
        consumer.wait_for("writer")
        started = time.perf_counter()
        wait_until(
            lambda: consumer.ends_within(1.0) or consumer.metric(loaded) >= case.files,
            timeout_s=1800,
            what="the backlog to be loaded",
        )
        wait_until(lambda: pending(tenant, defined.streams) == 0, timeout_s=60, what="all acks")
        elapsed_s = time.perf_counter() - started
        assert consumer.terminate() == 0, consumer.tail()
    lake = Lake(lake_config(tenant, instance="r-bench"))
    try:
        assert lake.query(f"SELECT count(*) FROM {TABLE}") == [(case.files * case.rows,)]
    finally:
        lake.close()
    return elapsed_s


def without_models(project: Path) -> Path:
    """A project with our tables and no model."""
    (project / "transforms").mkdir(parents=True)
    (project / "ddl").symlink_to(Path(__file__).resolve().parents[2] / "ddl", target_is_directory=True)
    return project
