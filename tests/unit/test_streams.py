"""The way from a key to its stream, and the files that say what the streams are."""

from pathlib import Path

import pytest

from feeders.lake import describe_create_table
from feeders.project import Project, ProjectError, SqlFileError, find_project
from feeders.streams import Column, Partition, Stream, StreamId, StreamTable, load_streams
from feeders.tables import load_meta_tables

ORDERS = StreamId(source="shopify", stream="orders")
LOADER_COLUMNS = "year BIGINT, month VARCHAR, day VARCHAR, _source_file VARCHAR, _rescued_data JSON"


def stream(name: str, *landing: str) -> Stream:
    source, _, rest = name.partition(".")
    return Stream(
        id=StreamId(source=source, stream=rest),
        table=f"stg_{source}__{rest}",
        landing=landing,
        columns=(),
        on_new_column="rescue",
        on_delete="keep",
    )


TABLE = StreamTable(
    [
        stream("shopify.orders", "raw/shopify/orders", "raw/shopify_v2/orders"),
        stream("shopify.order_refunds", "raw/shopify/order_refunds"),
        stream("klaviyo.events", "klaviyo/events"),
    ]
)

HIVE = "year=2024/month=02/day=29/part_0.parquet"

ROUTED = [
    ("raw/shopify/orders/" + HIVE, "shopify.orders", (2024, "02", "29")),
    ("raw/shopify_v2/orders/" + HIVE, "shopify.orders", (2024, "02", "29")),
    ("raw/shopify/order_refunds/" + HIVE, "shopify.order_refunds", (2024, "02", "29")),
    ("klaviyo/events/2024_01_05_1704412800000_0.parquet", "klaviyo.events", (2024, "01", "05")),
    ("raw/shopify/orders/2023_12_31_1_17.parquet", "shopify.orders", (2023, "12", "31")),
    (
        "raw/shopify/orders/year=0001/month=01/day=01/a b'\"%2F\\é\n.parquet",
        "shopify.orders",
        (1, "01", "01"),
    ),
    (
        "raw/shopify/orders/year=2024/month=01/day=05/2023_12_31_1_17.parquet",
        "shopify.orders",
        (2024, "01", "05"),
    ),
]

UNROUTED = [
    "",
    "/",
    ".parquet",
    "\0",
    "\ud800.parquet",
    "part_0.parquet",
    "raw/shopify/orders",
    "raw/shopify/orders/",
    "raw/shopify/orders/part_0.parquet",
    "raw/shopify/orders/year=2024/month=13/day=01/part_0.parquet",
    "raw/shopify/orders/year=2023/month=02/day=29/part_0.parquet",
    "raw/shopify/orders/year=0000/month=01/day=01/part_0.parquet",
    "raw/shopify/orders/year=2024/month=1/day=01/part_0.parquet",
    "raw/shopify/orders/year=٢٠٢٤/month=01/day=01/part_0.parquet",
    "raw/shopify/orders/year=2024/month=01/day=01/part_0.PARQUET",
    "raw/shopify/orders/year=2024/month=01/day=01/part_0.parquet.tmp",
    "raw/shopify/orders/year=2024/month=01/day=01/part_0.csv",
    "raw/shopify/orders/year=2024/month=01/day=01/.parquet",
    "raw/shopify/orders/year=2024/month=01/day=01/",
    "raw/shopify/orders/year=2024/month=01/day=01/deeper/part_0.parquet",
    "raw/shopify/orders/year=2024/month=01/part_0.parquet",
    "raw/shopify/orders/month=01/year=2024/day=01/part_0.parquet",
    "raw/shopify/orders/2024_13_01_1704412800000_0.parquet",
    "raw/shopify/orders/2024_01_05_1704412800000.parquet",
    "raw/shopify/orders/2024_01_05_1704412800000_0.parquet\n",
    "raw/shopify/orders/2024_01_05_1704412800000_0.parquet.parquet",
    "raw/shopify/orders/2024_01_05_1704412800000_0.parquet.versions/v_0123456789abcdef",
    "raw/shopify/orders/2024_01_05_1704412800000_0.parquet.versions/v_1.parquet",
    "raw/shopify/orders//year=2024/month=01/day=01/part_0.parquet",
    "/raw/shopify/orders/" + HIVE,
    "RAW/shopify/orders/" + HIVE,
    "raw/shopify/ordersx/" + HIVE,
    "raw/shopify/unknown/" + HIVE,
    "shopify/orders/" + HIVE,
    "year=2024/month=01/day=01/part_0.parquet",
]


@pytest.mark.parametrize(("key", "name", "partition"), ROUTED)
def test_a_key_of_a_stream_has_a_route(key: str, name: str, partition: tuple[int, str, str]) -> None:
    route = TABLE.route(key)
    assert route is not None
    assert str(route.stream.id) == name
    year, month, day = partition
    assert route.partition == Partition(year=year, month=month, day=day)


@pytest.mark.parametrize("key", UNROUTED)
def test_any_other_key_has_none(key: str) -> None:
    assert TABLE.route(key) is None


@pytest.mark.parametrize(
    "other",
    ["raw/shopify/orders", "raw/shopify", "raw/shopify/orders/new"],
    ids=["the same place", "a place around it", "a place inside it"],
)
def test_overlapping_places_of_two_streams_are_refused(other: str) -> None:
    with pytest.raises(ProjectError, match=r"shopify\.orders.*"):
        StreamTable([stream("shopify.orders", "raw/shopify/orders"), stream("web.orders", other)])


def test_places_that_only_begin_alike_do_not_overlap() -> None:
    assert len(StreamTable([stream("a.b", "raw/a/b"), stream("a.b2", "raw/a/b2")])) == 2


def project(tmp_path: Path, files: dict[str, str]) -> Project:
    for name, text in files.items():
        path = tmp_path / "ddl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Project(ddl=tmp_path / "ddl", transforms=tmp_path / "transforms", origin="checkout")


def test_a_file_makes_a_stream(tmp_path: Path) -> None:
    files = {
        "shopify/stg_shopify__orders.sql": "-- landing: raw/shopify/orders/ ,raw/shopify_v2/orders\n"
        "-- on_new_column: add\n-- on_delete: remove\n"
        f"CREATE TABLE staging.stg_shopify__orders (id BIGINT, name TIMESTAMPTZ, {LOADER_COLUMNS}); -- end"
    }
    table = load_streams(project(tmp_path, files), prefix="raw", describe=describe_create_table)
    orders = table.get(ORDERS)
    assert orders is not None
    assert orders.landing == ("raw/shopify/orders", "raw/shopify_v2/orders")
    assert (orders.on_new_column, orders.on_delete) == ("add", "remove")
    assert orders.columns[:2] == (
        Column(name="id", type="BIGINT"),
        Column(name="name", type="TIMESTAMP WITH TIME ZONE"),
    )
    assert orders.qualified_table == "staging.stg_shopify__orders"


@pytest.mark.parametrize(
    ("prefix", "landing"),
    [("raw", "raw/shopify/orders"), ("/a/b/", "a/b/shopify/orders"), ("", "shopify/orders")],
)
def test_without_a_header_a_stream_lands_under_the_prefix(tmp_path: Path, prefix: str, landing: str) -> None:
    files = {
        "shopify/stg_shopify__orders.sql": f"CREATE TABLE staging.stg_shopify__orders ({LOADER_COLUMNS})"
    }
    table = load_streams(project(tmp_path, files), prefix=prefix, describe=describe_create_table)
    assert [each.landing for each in table] == [(landing,)]
    assert [(each.on_new_column, each.on_delete) for each in table] == [("rescue", "keep")]


GOOD = f"CREATE TABLE staging.stg_a__b ({LOADER_COLUMNS});"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a/b.sql", GOOD, "not the name of a staging table's file"),
        ("a/stg_a__B.sql", GOOD, "not the name of a staging table's file"),
        ("stg_a__b.sql", GOOD, "stands in folder 'ddl'"),
        ("c/stg_a__b.sql", GOOD, "stands in folder 'c', but its name says source 'a'"),
        ("a/stg_a__c.sql", GOOD, "creates staging.stg_a__b, but the file's name says staging.stg_a__c"),
        ("a/stg_a__b.sql", GOOD.replace("staging.", ""), "creates stg_a__b, but"),
        ("a/stg_a__b.sql", GOOD + "DROP TABLE x;", "not one statement of the form CREATE TABLE"),
        ("a/stg_a__b.sql", GOOD.replace("TABLE", "TABLE IF NOT EXISTS"), "not one statement of the form"),
        ("a/stg_a__b.sql", GOOD.replace("month VARCHAR", "month INTEGER"), "lacks.*month VARCHAR"),
        ("a/stg_a__b.sql", "-- landing: a//b\n" + GOOD, "stg_a__b.sql:1: header 'landing' is 'a//b'"),
        ("a/stg_a__b.sql", "-- landing: a/b,\n" + GOOD, "an empty place"),
        ("a/stg_a__b.sql", "-- on_new_column: ad\n" + GOOD, "not one of rescue, add, reject"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, name: str, text: str, error: str) -> None:
    with pytest.raises(SqlFileError, match=error) as caught:
        load_streams(project(tmp_path, {name: text}), prefix="raw", describe=describe_create_table)
    assert str(tmp_path / "ddl" / name) in str(caught.value)


def test_the_project_has_the_nine_streams() -> None:
    table = load_streams(find_project(None), prefix="raw", describe=describe_create_table)
    assert [str(each.id) for each in table] == [
        "klaviyo.campaigns",
        "klaviyo.events",
        "klaviyo.flows",
        "klaviyo.lists",
        "klaviyo.metrics",
        "klaviyo.profiles",
        "shopify.customers",
        "shopify.order_refunds",
        "shopify.orders",
    ]
    route = table.route("raw/klaviyo/profiles/" + HIVE)
    assert route is not None
    names = [column.name for column in route.stream.columns]
    assert names[:4] == [
        "_airbyte_raw_id",
        "_airbyte_extracted_at",
        "_airbyte_meta",
        "_airbyte_generation_id",
    ]
    assert names[-5:] == ["day", "month", "year", "_source_file", "_rescued_data"]


def test_the_project_has_the_meta_tables() -> None:
    tables = load_meta_tables(find_project(None), describe_create_table)
    assert {table.schema for table in tables} == {"meta"}
    assert {table.name: len(table.columns) for table in tables} == {
        "feeder_cursors": 7,
        "feeder_failures": 11,
        "feeder_files": 16,
        "feeder_pauses": 5,
        "lotus_lake": 3,
        "transform_cursors": 7,
        "writer_epoch": 3,
    }
