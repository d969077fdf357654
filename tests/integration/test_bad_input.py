"""Bad input on real servers: odd keys load exactly once, hostile files and messages are dead letters that say why."""

import asyncio
import base64
import io
import json
import random
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
import pytest

import consumer.key
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from feeders.arrow import pa, pq
from feeders.parquet import inspect
from tests.helpers import wait_until
from tests.hostile import (
    BYTE_ARRAY,
    RLE_DICTIONARY,
    ZSTD,
    Column,
    Page,
    element,
    footer,
    framed,
    longs,
    parquet_of,
    varint,
)
from tests.hostile import run as levels
from tests.http_proxy import Head, HttpProxy
from tests.landed import dead_letters
from tests.service import ORDERS, RunningService, announce, keys_in_queue, orders, put_all, running_service

MIB = 1024**2
DAY = "year=2026/month=07/day=04"
PLACE = "raw/shopify/orders"
LONG_PLACE = "raw/" + "/".join(letter * 246 for letter in "abc")
ODD_PLACES = (
    "raw/odd name/select.from-where",
    'raw/it\'s "q"; DROP TABLE meta.feeder_files; --/100% *?[x]{y}',
    "raw/\U0001f600 e\u0301/\u05d0\u05d1\u202e..x",
    LONG_PLACE,
)
ODD_DDL = """-- landing: {places}
CREATE TABLE staging.stg_select__table (
    id BIGINT,
    "select" VARCHAR,
    document JSON,
    year BIGINT,
    month VARCHAR,
    day VARCHAR,
    _source_file VARCHAR,
    _rescued_data JSON
);
"""
SQL = "x'); DROP TABLE staging.stg_shopify__orders; DELETE FROM meta.feeder_files; --"

# ---------------------------------------------------------------- keys

NAMES: dict[str, str] = {
    "quotes": 'it\'s "said" `here`',
    "spaces": " two  spaces ",
    "dots": "..",
    "dots in a name": "a..b.",
    "control characters": "a\x01\t\r\x7f",
    "line ends of Unicode": "a\u0085b\u2028c",
    "combining": "e\u0301te\u0301",
    "the same, composed": "\u00e9t\u00e9",
    "right to left": "\u05d0\u05d1\u202etxt",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "ends of Unicode": "\ufeff\ue000\uffff\U0010ffff",
    "percent": "100%",
    "percent and digits": "%2F%00%zz%25%",
    "plus and others": "a+b=c@d:e,f;g&h#i",
    "a query": "a?versionId=x&acl",
    "SQL": SQL,
    "SQL with double quotes": 'x"); DROP TABLE meta.feeder_cursors; --',
    "all files": "*",
    "any file": "?[a-z]{b,c}**",
    "a shell": "$(rm -rf .) ${HOME} |<>!~",
    "a placeholder": "%s {} {0} $1 ?",
    "255 bytes": "n" * (255 - len(".parquet")),
}
"""What SeaweedFS takes as a name; a segment of a key may have 255 bytes there."""


def order_key(name: str) -> str:
    return f"{PLACE}/{DAY}/{name}.parquet"


def odd_keys() -> list[str]:
    keys = [f"{place}/{DAY}/{name}.parquet" for place in ODD_PLACES[:3] for name in ("a b", SQL, "e\u0301")]
    rest = 1024 - len(f"{LONG_PLACE}/{DAY}/.parquet")
    return [*keys, f"{LONG_PLACE}/{DAY}/{'z' * rest}.parquet"]


# ---------------------------------------------------------------- files

TEXT = [element("financial_status", leaf=True, physical=BYTE_ARRAY, converted=0)]


def wide_file() -> bytes:
    body = io.BytesIO()
    columns = {f"c{number}": pa.array([1], pa.int8()) for number in range(10_000)}
    pq.write_table(pa.table(columns), body, store_schema=False, write_statistics=False, use_dictionary=False)
    return body.getvalue()


def deep_file() -> bytes:
    kind: Any = pa.int64()
    value: Any = 1
    for _ in range(40):
        kind, value = pa.struct([("s", kind)]), {"s": value}
    body = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array([1]), "s": pa.array([value], kind)}), body)
    return body.getvalue()


def bomb(megabytes: int, pages: int) -> bytes:
    """Texts of `x`, each in a page of its own."""
    size = megabytes * MIB
    content = levels(1, 1, width=1) + size.to_bytes(4, "little") + b"x" * size
    page = Page(content=content, values=1, codec=ZSTD)
    text = Column(elements=TEXT, pages=[page], physical=BYTE_ARRAY, repeats=pages, unpacked=1000)
    return parquet_of([longs("id", pages), text], rows=pages)


def dictionary_bomb() -> bytes:
    rows = 4_000_000
    text = b"x" * MIB
    pages = [
        Page(content=len(text).to_bytes(4, "little") + text, values=1, dictionary=True, codec=ZSTD),
        Page(
            content=levels(1, rows, width=1) + b"\1" + varint(rows << 1) + b"\0",
            values=rows,
            encoding=RLE_DICTIONARY,
            codec=ZSTD,
        ),
    ]
    ids = Column(
        elements=[element("id", leaf=True)], pages=[Page(content=levels(0, rows, width=1), values=rows)]
    )
    return parquet_of([ids, Column(elements=TEXT, pages=pages, physical=BYTE_ARRAY)], rows=rows)


ROOT, LEAF = element("schema", children=1), element("id", leaf=True)
FILES: dict[str, tuple[Callable[[], bytes], str, str | None]] = {
    "empty": (lambda: b"", "empty_file", None),
    "noise": (lambda: random.Random(1).randbytes(5000), "not_parquet", None),
    "over-bytes": (lambda: bytes(4 * MIB + 1), "over_limit", "LOTUS_FILE_MAX_BYTES"),
    "columns": (wide_file, "over_limit", "LOTUS_FILE_MAX_COLUMNS"),
    "deep": (deep_file, "over_limit", "LOTUS_FILE_MAX_DEPTH"),
    "rows": (lambda: framed(b"", footer([ROOT, LEAF], rows=2**40)), "over_limit", "LOTUS_FILE_MAX_ROWS"),
    "negative": (lambda: framed(b"", footer([ROOT, LEAF], rows=-1)), "corrupt", None),
    "sums": (lambda: parquet_of([longs("id", 5)], rows=6, group_rows=5), "corrupt", None),
    "overlap": (
        lambda: parquet_of([longs("id", 5), Column(elements=TEXT, pages=longs("n", 5).pages, at=4)], rows=5),
        "corrupt",
        None,
    ),
    "unpacked": (lambda: bomb(60, 50), "over_limit", "LOTUS_FILE_MAX_UNPACKED_BYTES"),
    "page": (lambda: bomb(150, 1), "over_limit", "LOTUS_FILE_MAX_HELD_BYTES"),
    "dictionary": (dictionary_bomb, "over_limit", "LOTUS_FILE_MAX_HELD_BYTES"),
    "memory": (lambda: bomb(110, 1), "over_memory", None),
}
"""By the name of the key: the file, the reason of its dead letter, and the setting that it names."""

# ---------------------------------------------------------------- the service


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> Tenant:
    return stack.tenant(f"bad{uuid.uuid4().hex[:10]}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two streams, of which one has reserved words for its name and lands in odd places."""
    root = tmp_path_factory.mktemp("project")
    source = Path(__file__).parents[2] / "ddl"
    for folder in ("meta", "shopify"):
        (root / "ddl" / folder).mkdir(parents=True)
    for path in (*sorted((source / "meta").glob("*.sql")), source / "shopify" / "stg_shopify__orders.sql"):
        (root / "ddl" / path.parent.name / path.name).write_bytes(path.read_bytes())
    (root / "ddl" / "select").mkdir()
    ddl = ODD_DDL.format(places=", ".join(ODD_PLACES))
    (root / "ddl" / "select" / "stg_select__table.sql").write_text(ddl, encoding="utf-8")
    (root / "transforms").mkdir()
    return root


def settings(project: Path) -> dict[str, str]:
    return {
        "LOTUS_PROJECT_DIR": str(project),
        "LOTUS_FILE_MAX_BYTES": str(4 * MIB),
        "LOTUS_FILE_MAX_UNPACKED_BYTES": str(2048 * MIB),
        "LOTUS_DUCKDB_MEMORY_BYTES": str(128 * MIB),
    }


BOASTER = b"/boaster.parquet"
BOASTED_BYTES = 5 * 1024**3


class BoastingProxy(HttpProxy):
    """Announces 5 GiB for one object, and sends none of them."""

    async def _answer(
        self,
        answer: Head,
        request: Head,
        up_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        **cut: Any,
    ) -> bool:
        if request.method != b"GET" or BOASTER not in request.raw.split(b"\r\n", 1)[0]:
            return await super()._answer(answer, request, up_reader, writer, **cut)
        lines = [
            line for line in answer.raw.split(b"\r\n") if not line.lower().startswith(b"content-length:")
        ]
        lines.insert(1, b"Content-Length: %d" % BOASTED_BYTES)
        writer.write(b"\r\n".join(lines))
        await writer.drain()
        return False


@pytest.fixture(scope="module")
def proxy(tenant: Tenant) -> Iterator[BoastingProxy]:
    address = urlsplit(tenant.endpoints.s3_url)
    assert address.hostname
    assert address.port
    with BoastingProxy(address.hostname, address.port, seed=1) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def service(tenant: Tenant, project: Path, proxy: BoastingProxy) -> Iterator[RunningService]:
    with running_service(tenant, LOTUS_S3_ENDPOINT=proxy.url, **settings(project)) as service:
        yield service


def failures(service: RunningService) -> dict[str, tuple[str, int, dict[str, Any]]]:
    """The open dead letters by key: reason, attempts and detail."""
    rows = service.rows(
        "SELECT key, reason, attempts, detail FROM meta.feeder_failures WHERE resolved_at IS NULL"
    )
    return {str(key): (str(reason), int(str(n)), json.loads(str(detail))) for key, reason, n, detail in rows}


def test_odd_keys_load_exactly_once(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[str] = []

    def noted(path: Path, *rest: Any) -> Any:
        paths.append(str(path))
        return inspect(path, *rest)

    monkeypatch.setattr(consumer.key, "inspect", noted)
    bodies = {order_key(name): orders(number) for number, name in enumerate(NAMES.values())}
    odd = {key: orders(number) for number, key in enumerate(odd_keys(), 1000)}
    assert {len(key.encode()) for key in odd} >= {1024}
    with service.expecting(loaded=len(bodies) + len(odd)):
        put_all(service.tenant, bodies | odd)

    for table, wanted in (("stg_shopify__orders", bodies), ("stg_select__table", odd)):
        found = service.rows(f"SELECT _source_file, id FROM staging.{table} ORDER BY id")
        assert [key for key, _ in found] == list(wanted)
    ledger = service.rows("SELECT key, count(*), max(rows) FROM meta.feeder_files GROUP BY key")
    assert sorted(ledger) == sorted((key, 1, 1) for key in bodies | odd)
    assert failures(service) == {}
    # What the file system and DuckDB see has nothing of a key in it.
    assert len(paths) == len(bodies) + len(odd)
    assert all(re.fullmatch(r"lotus-slot-\d+\.parquet", Path(path).name) for path in paths)
    assert all(str(path).isascii() and "parquet/" not in path and PLACE not in path for path in paths)


def test_a_value_that_duckdb_can_quote_in_no_text_is_rescued(service: RunningService) -> None:
    """DuckDB's error has the bytes as they are, which Python can't decode: that must not be the writer's end."""
    text = b'{"a\xe4": 1}'
    page = Page(content=levels(1, 1, width=1) + len(text).to_bytes(4, "little") + text, values=1)
    documents = [element("document", leaf=True, physical=BYTE_ARRAY, converted=19)]
    body = parquet_of([longs("id", 1), Column(elements=documents, pages=[page], physical=BYTE_ARRAY)], rows=1)
    key = f"{ODD_PLACES[0]}/{DAY}/bytes.parquet"
    with service.expecting(loaded=1):
        service.put(key, body)
    rows = service.rows(
        "SELECT id, document, _rescued_data FROM staging.stg_select__table WHERE _source_file = ?", key
    )
    assert rows == [(0, None, json.dumps({"document": {"hex": text.hex()}}, separators=(",", ":")))]


def test_keys_that_seaweedfs_or_the_layout_refuse_end(service: RunningService) -> None:
    r"""A line break matches none of its bucket policies, a `\` becomes a slash, and nothing is of no stream."""
    broken, cut = order_key("line\nbreak"), order_key("cr\r\nlf")
    slashed, real = order_key("back\\slash"), order_key("back/slash")
    above = f"{PLACE}/{DAY}/a/../b.parquet"
    with service.expecting(unexpected=6, unrouted=2):
        service.put(slashed, orders(1))
        for key in (broken, cut, above):
            assert announce(service.tenant, key)
    found = failures(service)
    assert {key: found[key][:2] for key in (broken, cut)} == dict.fromkeys((broken, cut), ("unexpected", 3))
    assert {key: found[key][:2] for key in (real, above)} == dict.fromkeys((real, above), ("unrouted", 1))
    assert keys_in_queue(service.tenant) == 0


def test_hostile_files_are_dead_letters_that_name_the_limit(service: RunningService) -> None:
    bodies = {order_key(f"file-{name}"): make() for name, (make, _, _) in FILES.items()}
    good = {order_key(f"good-{number}"): orders(5000 + number) for number in range(10)}
    wanted = {f"file-{name}": (reason, setting) for name, (_, reason, setting) in FILES.items()}
    with service.expecting(loaded=len(good), poison=len(FILES) - 1, unexpected=3):
        put_all(service.tenant, bodies | good)
    found = failures(service)
    for key in bodies:
        reason, attempts, detail = found[key]
        name = key.rpartition("/")[2].removesuffix(".parquet")
        assert (reason, detail.get("setting")) == wanted[name], detail
        assert attempts == (3 if reason == "over_memory" else 1)
        if reason == "over_limit":
            assert detail["found"] > detail["allowed"]
            assert str(detail["found"]) in detail["error"]
    loaded = service.rows("SELECT _source_file FROM staging.stg_shopify__orders WHERE id >= 5000 ORDER BY id")
    assert [key for (key,) in loaded] == list(good)


def test_an_announced_size_over_the_limit_is_refused_before_a_byte_is_read(service: RunningService) -> None:
    key = order_key(BOASTER.decode().strip("/").removesuffix(".parquet"))
    with service.expecting(poison=1):
        service.put(key, orders(1))
    reason, attempts, detail = failures(service)[key]
    assert (reason, attempts, detail["setting"]) == ("over_limit", 1, "LOTUS_FILE_MAX_BYTES")
    assert (detail["found"], detail["allowed"]) == (BOASTED_BYTES, 4 * MIB)


def test_random_bytes_and_8_mb_in_the_queue_are_dead_letters_of_bounded_size(service: RunningService) -> None:
    tenant = service.tenant
    noise = random.Random(2)
    largest = 8 * MIB
    payloads = [
        b"",
        noise.randbytes(200),
        b"{" * 5000,
        b'{"schema":',
        noise.randbytes(largest),
        b"[" * largest,
    ]
    subjects = [
        *(f"{tenant.namespace}.keys.shopify.orders.{noise.randbytes(16).hex()}" for _ in payloads),
        f"{tenant.namespace}.keys.shopify.orders.no-identity",
        f"{tenant.namespace}.keys._unrouted._.{noise.randbytes(16).hex()}",
    ]

    async def publish() -> None:
        endpoints = tenant.endpoints
        client = await nats.connect(endpoints.nats_url, user=tenant.nats_user, password=tenant.nats_password)
        try:
            for subject, payload in zip(subjects, [*payloads, b"{}", b"{}"], strict=True):
                await client.jetstream().publish(subject, payload, timeout=30)
        finally:
            await client.close()

    with service.expecting(undecodable=len(subjects), loaded=1):
        asyncio.run(publish())
        service.put(order_key("after-noise"), orders(9000))
    rows = service.rows(
        "SELECT length(detail::VARCHAR) FROM meta.feeder_failures WHERE reason = 'undecodable'"
    )
    assert len(rows) == len(subjects)
    assert all(int(str(length)) < 2000 for (length,) in rows)
    wait_until(lambda: keys_in_queue(tenant, ORDERS) == 0, what="the queue to be empty")
    announced = [letter for letter in dead_letters(tenant) if letter["reason"] == "undecodable"]
    assert {str(letter["subject"]) for letter in announced} == set(subjects)
    evidence = [base64.b64decode(str(letter["payload_base64"])) for letter in announced]
    assert max(map(len, evidence)) == 64 * 1024
    assert any(
        payload == largest_payload[: 64 * 1024] for largest_payload in payloads[-2:] for payload in evidence
    )
    assert all(len(json.dumps(letter)) < 100_000 for letter in announced)


def swept_at(service: RunningService) -> float:
    return max(
        sample.value for metric in service.service.metrics.swept_at.collect() for sample in metric.samples
    )


def test_a_sweep_knows_every_odd_key(service: RunningService, project: Path) -> None:
    """What it lists is what the ledger and the dead letters have, byte by byte: it publishes nothing."""
    before = service.rows("SELECT count(*) FROM meta.feeder_files"), len(failures(service))
    service.stop()
    with running_service(service.tenant, LOTUS_FILER_GRPC="", **settings(project)) as again:
        wait_until(lambda: swept_at(again) > 0, timeout_s=60, what="the sweep at start to end")
        missing = [sample for metric in again.service.metrics.swept.collect() for sample in metric.samples]
        assert [sample.labels for sample in missing if sample.value and sample.name.endswith("_total")] == []
        assert not again.outcomes()
        assert (again.rows("SELECT count(*) FROM meta.feeder_files"), len(failures(again))) == before
