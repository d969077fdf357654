"""A lake with the meta tables and one small stream, `probe.items`: for tests of what the design stands on."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from consumer.embedded.identity import S3Identity, Tenant
from feeders.apply import begin_term
from feeders.arrow import pa, pq
from feeders.epoch import Epoch
from feeders.headers import Headers
from feeders.lake import Lake, LakeConfig, ObjectStore, describe_create_table
from feeders.ledger import ObjectVersion
from feeders.parquet import Limits, inspect
from feeders.project import find_project
from feeders.schema import plan_load
from feeders.streams import LOADER_COLUMNS, Column, Partition, Stream, StreamId, StreamTable
from feeders.tables import Table, load_meta_tables
from feeders.work import Load
from tests.lakes import lake_config

ITEMS = "staging.stg_probe__items"
STREAM = Stream(
    id=StreamId(source="probe", stream="items"),
    table="stg_probe__items",
    landing=("raw/probe/items",),
    columns=(Column(name="id", type="BIGINT"), Column(name="name", type="VARCHAR"), *LOADER_COLUMNS),
    on_new_column="rescue",
    on_delete="remove",
)
PARTITION = Partition(year=2026, month="05", day="16")


def through(config: LakeConfig, port: int) -> LakeConfig:
    """The same lake, its catalog reached at another port of this host: a proxy's."""
    return replace(config, catalog=replace(config.catalog, port=port))


def acting_as(config: LakeConfig, identity: S3Identity) -> LakeConfig:
    """The same lake, its files read and written by another identity."""
    return replace(
        config,
        store=ObjectStore(
            endpoint=config.store.endpoint,
            access_key_id=identity.access_key_id,
            secret_access_key=identity.secret_access_key,
        ),
    )


@contextmanager
def opened(config: LakeConfig) -> Generator[Lake]:
    """A lake for a `with` block."""
    lake = Lake(config)
    try:
        yield lake
    finally:
        lake.close()


@contextmanager
def lake_of(tenant: Tenant, instance: str) -> Generator[Lake]:
    """The tenant's lake, opened by an instance as the service does it."""
    with opened(lake_config(tenant, instance=instance)) as lake:
        yield lake


def start(lake: Lake, *, instance: str, streams: Sequence[Stream] = (STREAM,)) -> Epoch:
    """Begins a term on a lake with the meta tables and the probe's staging table."""
    meta = load_meta_tables(find_project(None), describe_create_table)
    probe = Table(
        schema="staging",
        name=STREAM.table,
        columns=STREAM.columns,
        headers=Headers(path=Path("probe.sql"), found=()),
    )
    return begin_term(lake, (*meta, probe), StreamTable(streams), instance=instance, version="0.0.test")


def write_items(path: Path, ids: Sequence[int]) -> Path:
    """Writes a small Parquet file of the probe's stream."""
    names = [f"item {number}" for number in ids]
    pq.write_table(pa.table({"id": pa.array(ids, pa.int64()), "name": names}), path)
    return path


def load_of_items(path: Path, key: str, *, etag: str = "e1", stream: Stream = STREAM) -> Load:
    """Plans a file of the probe's stream as an object with this key."""
    footer = inspect(path, Limits())
    return Load(
        stream=stream,
        partition=PARTITION,
        version=ObjectVersion(
            bucket="landing",
            key=key,
            etag=etag,
            version_id=None,
            size_bytes=path.stat().st_size,
            last_modified=None,
        ),
        plan=plan_load(path, footer, STREAM.columns, work_dir=path.parent),
        found_by="test",
    )
