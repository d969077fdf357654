"""What a consumer costs: the S3 requests that it sends, counted on their way, and what its catalog and bucket hold."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, LiteralString
from urllib.parse import parse_qs, urlsplit

from psycopg import sql

from consumer.embedded.identity import Tenant
from feeders.catalog import Catalog, newest_snapshot
from feeders.lake import Lake
from tests.http_proxy import Head, HttpProxy
from tests.lakes import lake_config

Kind = Literal["GET", "HEAD", "LIST", "PUT", "POST", "DELETE"]
KINDS: tuple[Kind, ...] = ("GET", "HEAD", "LIST", "PUT", "POST", "DELETE")
"""LIST is a GET of a bucket and not of an object; POST begins and completes what is written in parts."""
_DUCKLAKE_TABLES: LiteralString = (
    "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename LIKE 'ducklake%%'"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one request asked for."""

    bucket: str
    key: str
    kind: str
    query: Mapping[str, list[str]]

    @property
    def makes_an_object(self) -> bool:
        """Whether an object is there once it is done: a whole one was put, or its parts were completed."""
        if self.kind == "POST":
            return "uploadId" in self.query
        return self.kind == "PUT" and bool(self.key) and "partNumber" not in self.query


def request_of(head: Head) -> Request:
    """Reads the first line of a path-style S3 request."""
    method, target = head.raw.split(b"\r\n", 1)[0].decode().split(" ")[:2]
    path = urlsplit(target)
    bucket, _, key = path.path.lstrip("/").partition("/")
    kind = "LIST" if method == "GET" and not key else method
    return Request(bucket=bucket, key=key, kind=kind, query=parse_qs(path.query, keep_blank_values=True))


class CountingProxy(HttpProxy):
    """Forwards everything, and counts what was answered, by bucket and kind; and the objects that were made."""

    def __init__(self, tenant: Tenant) -> None:
        address = urlsplit(tenant.endpoints.s3_url)
        assert address.hostname
        assert address.port
        super().__init__(address.hostname, address.port, seed=1)
        self._requests: Counter[tuple[str, str]] = Counter()
        self._objects: Counter[str] = Counter()

    def counts(self) -> "Requests":
        """What was counted so far."""
        return asyncio.run_coroutine_threadsafe(self._counts(), self._loop).result(10)

    async def _counts(self) -> "Requests":
        return Requests(by_bucket_and_kind=self._requests.copy(), objects_made=self._objects.copy())

    async def _answer(
        self,
        answer: Head,
        request: Head,
        up_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        cut: Literal["request", "answer"] | None,
    ) -> bool:
        asked = request_of(request)
        self._requests[asked.bucket, asked.kind] += 1
        if answer.status < 300 and asked.makes_an_object:
            self._objects[asked.bucket] += 1
        return await super()._answer(answer, request, up_reader, writer, cut=cut)


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests by (bucket, kind), and objects made by bucket."""

    by_bucket_and_kind: Counter[tuple[str, str]]
    objects_made: Counter[str]

    def since(self, before: "Requests") -> "Requests":
        """What came after `before`."""
        return Requests(
            by_bucket_and_kind=self.by_bucket_and_kind - before.by_bucket_and_kind,
            objects_made=self.objects_made - before.objects_made,
        )

    def of_bucket(self, bucket: str) -> dict[str, int]:
        """The requests about one bucket, by kind."""
        return {kind: self.by_bucket_and_kind[bucket, kind] for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What a lake has: objects in its bucket, rows of DuckLake's tables in PostgreSQL, and its newest snapshot."""

    objects: int
    catalog_rows: int
    snapshot: int


def holdings(tenant: Tenant) -> Holdings:
    """Counts what a lake has now, without the consumer's help."""
    lake = Lake(lake_config(tenant, instance="r-bench"))
    try:
        catalog = lake.config.catalog
        with catalog.connect(application="bench") as connection:
            snapshot = newest_snapshot(connection, catalog)
        return Holdings(objects=lake_objects(lake), catalog_rows=catalog_rows(catalog), snapshot=snapshot)
    finally:
        lake.close()


def lake_objects(lake: Lake) -> int:
    """How many objects the lake has in its bucket."""
    rows = lake.query("SELECT count(*) FROM glob(? || '**')", (lake.config.data_path,))
    return int(rows[0][0])


def catalog_rows(catalog: Catalog) -> int:
    """Rows of all of DuckLake's tables in PostgreSQL."""
    with catalog.connect(application="bench") as connection:
        names = connection.execute(_DUCKLAKE_TABLES, (catalog.schema,)).fetchall()
        counts = [
            connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(catalog.schema, name))
            ).fetchone()
            for (name,) in names
        ]
    return sum(row[0] for row in counts if row)
