"""An audit of 100,000 objects: how long it takes, what it takes of a CPU and of memory. Rows for docs/performance.md.

The objects are real and small, all with the same bytes; ledger and staging are filled by two statements, which takes
minutes less than to load them and leaves the same. The audit is a process of its own.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryFile
from urllib.parse import quote

import aiohttp
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from consumer.broker import Broker
from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from consumer.settings import inherited_environment
from tests.benchmarks.figures import say, say_table, scaled, shown
from tests.helpers import wait_until
from tests.lakes import definitions, open_lake, start_term
from tests.rss import Memory
from tests.service import put, settings_of, with_broker

pytestmark = pytest.mark.bench
OBJECTS = 100_000
A_DAY = 1000
PUTS_AT_ONCE = 32
SOURCE, STREAM = "klaviyo", "lists"
TABLE = f"staging.stg_{SOURCE}__{STREAM}"
LOST = 0.01
MOST_S = 3600.0

_KEYS = f"""
SELECT strftime(DATE '2025-01-01' + (i // {A_DAY})::INTEGER,
    'raw/{SOURCE}/{STREAM}/year=%Y/month=%m/day=%d/') || 'part_' || i || '.parquet' AS key
FROM range(?) AS numbers (i)
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One audit: its exit status, what it says, and what it took."""

    status: int
    document: dict[str, object]
    seconds: float
    cpu_s: float
    peak_mib: float

    @property
    def cells(self) -> list[str]:
        """As the table shows it."""
        return [shown(self.seconds, digits=1), shown(self.cpu_s, digits=1), shown(self.peak_mib)]


@pytest.mark.timeout(7200)
def test_an_audit_of_many_objects(tenant: Tenant, bench_scale: float) -> None:
    objects = scaled(OBJECTS, bench_scale, least=1000)
    body, rows = small_file()
    lake = open_lake(tenant)
    try:
        start_term(lake, definitions())
        keys = [key for (key,) in lake.query(_KEYS, (objects,))]
        etag = put(tenant, keys[0], body)
        started = time.monotonic()
        asyncio.run(put_copies(tenant, keys[1:], body))
        say(f"{objects:,} objects of {len(body):,} bytes landed in {time.monotonic() - started:.0f} s")
        lake.query(
            "INSERT INTO meta.feeder_files (source, stream, bucket, key, etag, size_bytes, last_modified, rows,"
            " rescued_rows, action, found_by, epoch, loaded_at) SELECT ?, ?, ?, key, ?, ?, now(), ?, 0, 'loaded',"
            f" 'sweep', 1, now() FROM ({_KEYS})",
            (SOURCE, STREAM, tenant.landing_bucket, etag, len(body), rows, objects),
        )
        lake.query(
            f"INSERT INTO {TABLE} (id, _source_file) SELECT i::VARCHAR, key"
            f" FROM ({_KEYS.replace('?', str(objects))}), range(?) AS r (i)",
            (rows,),
        )
        assert with_broker(settings_of(tenant), queue_is_there)
        table: list[list[str]] = []
        for each in ("footers", "ledger", "none"):
            table.append([f"rows from {each}", *audited(tenant, each, objects).cells])
            say(" ".join(table[-1]))

        lost = keys[:: round(1 / LOST)]
        lake.query("DELETE FROM meta.feeder_files WHERE key IN (SELECT unnest(?))", (lost,))
        run = audit(tenant, "footers")
        assert (run.status, run.document["kinds"]) == (1, {"missing": len(lost)})
        table.append([f"rows from footers, {len(lost):,} missing", *run.cells])
    finally:
        lake.close()
    say_table([f"audit of {objects:,} objects", "seconds", "CPU seconds", "peak MiB"], table)


async def queue_is_there(broker: Broker) -> bool:
    """Whether the queue is made, which no service has done here."""
    return await broker.queue_made_at() is not None


def small_file() -> tuple[bytes, int]:
    """What Airbyte would write of the stream, with a few rows."""
    file = next(each for each in Landing(seed=3, files=200, rows=(5, 5)) if each.stream == STREAM)
    return file.body, file.rows


def audited(tenant: Tenant, rows_from: str, objects: int) -> Run:
    """An audit that finds everything complete."""
    run = audit(tenant, rows_from)
    assert (run.status, run.document["unexplained"]) == (0, []), run.document
    total = run.document["total"]
    assert isinstance(total, dict)
    assert (total["objects"], total["loaded"]) == (objects, objects)
    if rows_from != "none":
        assert total["rows_in_files"] == total["rows_in_staging"] > 0
    return run


def audit(tenant: Tenant, rows_from: str) -> Run:
    """Runs the command as a process."""
    command = [sys.executable, "-m", "consumer.cli", "audit", "--json", "--rows", rows_from]
    environment = inherited_environment() | tenant.env()
    before, started = getrusage(RUSAGE_CHILDREN), time.monotonic()
    peak_mib = 0
    with TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=environment, stdout=output)

        def has_ended() -> bool:
            nonlocal peak_mib
            # getrusage's own peak begins with that of the process which was forked.
            with suppress(KeyError, OSError):  # it has just ended
                peak_mib = Memory.of(process.pid).peak_mib
            return process.poll() is not None

        wait_until(has_ended, timeout_s=MOST_S, what="the audit's end")
        seconds, after = time.monotonic() - started, getrusage(RUSAGE_CHILDREN)
        output.seek(0)
        document = json.loads(output.read())
    return Run(
        status=process.returncode,
        document=document,
        seconds=seconds,
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        peak_mib=peak_mib,
    )


async def put_copies(tenant: Tenant, keys: list[str], body: bytes) -> None:
    """Puts the same bytes under many keys, with no more around each request than its signature."""
    who = tenant.lander
    signer = S3SigV4Auth(Credentials(who.access_key_id, who.secret_access_key), "s3", "us-east-1")
    left: Iterator[str] = iter(keys)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=PUTS_AT_ONCE)) as session:

        async def work() -> None:
            for key in left:
                url = f"{tenant.endpoints.s3_url}/{tenant.landing_bucket}/{quote(key, safe='/~')}"
                request = AWSRequest("PUT", url, headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
                request.context["payload_signing_enabled"] = False
                signer.add_auth(request)
                headers = {str(name): str(value) for name, value in request.headers.items()}
                async with session.put(URL(url, encoded=True), data=body, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()

        await asyncio.gather(*(work() for _ in range(PUTS_AT_ONCE)))
