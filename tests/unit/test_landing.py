"""The landing's files: the same from the same seed, at home in their streams, full of realistic values."""

import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from consumer.landing.dice import Dice
from consumer.landing.generate import Landing, LandingFile
from consumer.landing.klaviyo import Account, event_row
from consumer.landing.people import Row
from consumer.landing.rows import MAKERS
from consumer.landing.shop import Shop
from feeders.lake import describe_create_table
from feeders.project import ProjectError, find_project
from feeders.streams import LOADER_COLUMNS, StreamId, StreamTable, load_streams
from feeders.types import DuckType, List, Scalar, Struct, parse_type

# What the sources leave empty in practice.
NEVER_FILLED = {
    "customer.multipass_identifier",
    "transactions.device_id",
    "transactions.payment_details.buyer_action_info",
    "attributes.anonymous_id",
    "attributes.subscriptions.email.marketing.custom_method_detail",
    "attributes.tracking_options.add_tracking_params",
}


@pytest.fixture(scope="module")
def streams() -> StreamTable:
    return load_streams(find_project(None), prefix="raw", describe=describe_create_table)


def made(streams: StreamTable, *, seed: int = 1, files: int | None = 60, rows: int = 5) -> list[LandingFile]:
    return list(Landing(seed=seed, files=files, rows=rows, streams=streams))


def test_the_same_seed_lands_the_same_files(streams: StreamTable) -> None:
    assert made(streams) == made(streams)
    assert made(streams, seed=2) != made(streams)


def test_a_shorter_landing_is_the_beginning_of_a_longer_one(streams: StreamTable) -> None:
    endless = Landing(seed=1, files=None, rows=5, streams=streams)
    assert list(islice(endless, 60)) == made(streams)


@pytest.mark.parametrize("seed", range(5))
def test_nine_files_are_one_of_each_stream(seed: int, streams: StreamTable) -> None:
    files = made(streams, seed=seed, files=9)
    assert {StreamId(source=file.source, stream=file.stream) for file in files} == {
        each.id for each in streams
    }


def test_rows_of_a_file_are_as_many_as_asked_for(streams: StreamTable) -> None:
    assert {file.rows for file in made(streams, rows=7)} == {7}
    ranged = Landing(seed=1, files=40, rows=(3, 6), streams=streams)
    assert {file.rows for file in ranged} == {3, 4, 5, 6}
    for wrong in (0, (5, 4), (0, 3)):
        with pytest.raises(ValueError, match="at least 1"):
            Landing(seed=1, files=1, rows=wrong, streams=streams)


def test_a_project_without_the_nine_streams_is_refused() -> None:
    with pytest.raises(ProjectError, match=r"lacks shopify\.orders, shopify\.order_refunds"):
        Landing(seed=1, files=1, streams=StreamTable([]))


def test_every_file_is_at_home_in_its_stream(streams: StreamTable) -> None:
    loader = {column.name for column in LOADER_COLUMNS}
    for file in made(streams, files=200):
        route = streams.route(file.key)
        assert route is not None, file.key
        assert str(route.stream.id) == f"{file.source}.{file.stream}"
        schema = parquet_of(file).schema_arrow
        assert schema.names == [each.name for each in route.stream.columns if each.name not in loader]
        assert all(name.startswith("_airbyte_") for name in schema.names[:4])


def test_no_file_has_two_rows_of_one_raw_id(streams: StreamTable) -> None:
    """Two such rows with other values would leave open which of them is the latest."""
    files = made(streams, files=200, rows=60)
    for file in files:
        raw_ids = parquet_of(file).read(["_airbyte_raw_id"])["_airbyte_raw_id"].to_pylist()
        assert len(set(raw_ids)) == file.rows


def test_a_landing_has_both_layouts_all_codecs_and_both_time_units(streams: StreamTable) -> None:
    files = made(streams, files=300, rows=2)
    codecs: set[str] = set()
    units: set[str] = set()
    for file in files:
        metadata = parquet_of(file).metadata
        assert metadata.num_rows == file.rows
        codecs.add(metadata.row_group(0).column(0).compression)
        units |= {
            json.loads(leaf.logical_type.to_json())["timeUnit"]
            for leaf in (metadata.schema.column(index) for index in range(metadata.num_columns))
            if leaf.logical_type.type == "TIMESTAMP"
        }
    assert codecs == {"SNAPPY", "GZIP", "ZSTD", "UNCOMPRESSED"}
    assert units == {"milliseconds", "microseconds"}
    assert {"/year=" in file.key for file in files} == {True, False}
    days = {route.partition.date() for file in files if (route := streams.route(file.key)) is not None}
    assert len(days) > 7


def test_some_keys_are_written_again_with_the_same_or_other_content(streams: StreamTable) -> None:
    landing = Landing(seed=1, files=400, rows=5, streams=streams)
    bucket: dict[str, bytes] = {}
    changed = 0
    for file in landing:
        assert file.overwrites == (file.key in bucket)
        changed += file.overwrites and bucket[file.key] != file.body
        bucket[file.key] = file.body
    assert changed > 5
    assert len(bucket) == len(landing.objects) == sum(each.objects for each in landing.totals().values())


def test_files_do_not_land_in_the_order_of_time(streams: StreamTable) -> None:
    flat = [
        int(file.key.rsplit("_", 2)[1])
        for file in made(streams, files=200)
        if "/year=" not in file.key and not file.overwrites
    ]
    assert flat != sorted(flat)


@pytest.mark.parametrize("stream_id", MAKERS, ids=str)
def test_records_fill_the_columns_of_the_ddl_and_nothing_else(
    stream_id: StreamId, streams: StreamTable
) -> None:
    account = Account(shop=Shop(Dice(1), 1_700_000_000_000_000))
    for _ in range(50):
        event_row(account)  # a profile has a last event only after an event
    records = [MAKERS[stream_id].make(account) for _ in range(600)]
    stream = streams.get(stream_id)
    assert stream is not None
    ignored = {column.name for column in LOADER_COLUMNS}
    columns = {
        each.name: parse_type(each.type)
        for each in stream.columns
        if each.name not in ignored and not each.name.startswith("_airbyte_")
    }
    filled: set[str] = set()
    for record in records:
        assert record.keys() == columns.keys()
        for name, value in record.items():
            filled |= set(filled_paths(name, columns[name], value))
    wanted = {path for name, duck_type in columns.items() for path in leaf_paths(name, duck_type)}
    assert wanted - filled == wanted & NEVER_FILLED


def test_text_columns_that_hold_json_hold_json(streams: StreamTable) -> None:
    events = next(file for file in made(streams, files=9) if file.stream == "events")
    texts = [
        cast("dict[str, str | None]", row["attributes"])["event_properties"]
        for row in cast("list[Row]", parquet_of(events).read().to_pylist())
    ]
    values = [json.loads(text) for text in texts if text is not None]
    assert values
    assert all(value["extra"]["utm"] for value in values)
    assert any("größe" in text.lower() for text in texts if text is not None)


def parquet_of(file: LandingFile) -> Any:
    """Opens the file with pyarrow, which has no types."""
    return pq.ParquetFile(io.BytesIO(file.body))


def leaf_paths(path: str, duck_type: DuckType) -> Iterator[str]:
    match duck_type:
        case Struct():
            for each in duck_type.fields:
                yield from leaf_paths(f"{path}.{each.name}", each.type)
        case List():
            yield from leaf_paths(path, duck_type.element)
        case _:
            yield path


def filled_paths(path: str, duck_type: DuckType, value: object) -> Iterator[str]:
    """Yields the leaves that have a value, and fails on a field that the type has not."""
    match duck_type:
        case _ if value is None:
            return
        case Struct():
            fields = cast("Row", value)
            assert fields.keys() <= {each.name for each in duck_type.fields}, path
            for each in duck_type.fields:
                yield from filled_paths(f"{path}.{each.name}", each.type, fields.get(each.name))
        case List():
            for element in cast("list[object]", value):
                yield from filled_paths(path, duck_type.element, element)
        case Scalar():
            yield path
        case _:
            raise AssertionError(f"{path} has an unknown type")
