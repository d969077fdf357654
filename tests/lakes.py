"""A tenant's lake for tests: opened as the loader, with the project's own DDL and models."""

from dataclasses import dataclass
from pathlib import Path

from consumer.embedded.identity import Tenant
from consumer.landing.generate import LandingFile
from feeders.apply import begin_term
from feeders.catalog import Catalog
from feeders.epoch import Epoch
from feeders.lake import Lake, LakeConfig, ObjectStore, Row, describe_create_table
from feeders.ledger import ObjectVersion
from feeders.models import Model, load_models
from feeders.parquet import Limits, inspect
from feeders.project import find_project
from feeders.schema import plan_load
from feeders.streams import StreamTable, load_streams
from feeders.tables import Table, load_meta_tables, load_staging_tables
from feeders.work import Load, Request


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """The project's own DDL and models."""

    tables: tuple[Table, ...]
    streams: StreamTable
    models: tuple[Model, ...]


def definitions(prefix: str = "raw", *, project_dir: Path | None = None) -> Definitions:
    project = find_project(project_dir)
    return Definitions(
        tables=(
            *load_meta_tables(project, describe_create_table),
            *load_staging_tables(project, describe_create_table),
        ),
        streams=load_streams(project, prefix=prefix, describe=describe_create_table),
        models=load_models(project),
    )


def lake_config(tenant: Tenant, *, instance: str = "w-test", **changes: object) -> LakeConfig:
    values: dict[str, object] = {
        "catalog": Catalog(
            host=tenant.catalog.host,
            port=tenant.catalog.port,
            database=tenant.catalog.database,
            user=tenant.catalog.user,
            password=tenant.catalog.password,
        ),
        "store": ObjectStore(
            endpoint=tenant.endpoints.s3_url,
            access_key_id=tenant.loader.access_key_id,
            secret_access_key=tenant.loader.secret_access_key,
        ),
        "data_path": tenant.lake_path,
        "instance": instance,
    }
    return LakeConfig(**(values | changes))  # pyright: ignore[reportArgumentType] - test-only overrides


def open_lake(tenant: Tenant, *, instance: str = "w-test") -> Lake:
    return Lake(lake_config(tenant, instance=instance))


def start_term(lake: Lake, defined: Definitions, *, instance: str = "w-test") -> Epoch:
    return begin_term(lake, defined.tables, defined.streams, instance=instance, version="0.0.test")


def load_of(
    file: LandingFile,
    defined: Definitions,
    *,
    folder: Path,
    bucket: str = "landing",
    etag: str | None = None,
    replay: Request | None = None,
) -> Load:
    """Plans a landed file the way the walk does, without S3: the etag is of the content unless given."""
    path = folder / f"{abs(hash((file.key, file.body)))}.parquet"
    path.write_bytes(file.body)
    route = defined.streams.route(file.key)
    assert route is not None, file.key
    footer = inspect(path, Limits())
    return Load(
        stream=route.stream,
        partition=route.partition,
        version=ObjectVersion(
            bucket=bucket,
            key=file.key,
            etag=etag or f"{hash(file.body):x}",
            version_id=None,
            size_bytes=len(file.body),
            last_modified=None,
        ),
        plan=plan_load(path, footer, route.stream.columns, work_dir=folder),
        found_by="test",
        replay=replay,
    )


def count(lake: Lake, table: str) -> int:
    return int(lake.query(f"SELECT count(*) FROM {table}")[0][0])


def one(lake: Lake, sql: str, parameters: tuple[object, ...] = ()) -> Row:
    rows = lake.query(sql, parameters)
    assert len(rows) == 1, rows
    return rows[0]
