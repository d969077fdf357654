"""Drift on a real lake: tables that grow by what files bring, files that are rejected, and what is told."""

import io
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import feeders.apply
import feeders.growth
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.landing.generate import LandingFile
from feeders import fault
from feeders.apply import Grown, apply_ddl, grow_table, preview_ddl
from feeders.arrow import pa, pq
from feeders.drift import MAX_SCHEMA_CHARACTERS
from feeders.epoch import Epoch
from feeders.errors import LakeConflict, LakeFenced
from feeders.parquet import Limits, inspect
from feeders.project import find_project
from feeders.streams import Stream, StreamId
from feeders.types import quote_identifier
from feeders.work import Load
from feeders.writer import BatchLimits, Writer
from tests.helpers import wait_until
from tests.lakes import Definitions, definitions, load_of, one, open_lake, start_term
from tests.service import RunningService, order_key, orders, parquet, put_all, running_service

MAX_COLUMNS = 40
TIMEOUT_S = 60
TABLE = """-- on_new_column: {policy}
CREATE TABLE staging.stg_probe__{name} (
    id BIGINT,
    customer STRUCT(id BIGINT),
    lines STRUCT(id BIGINT, taxes STRUCT(title VARCHAR)[])[],
    year BIGINT, month VARCHAR, day VARCHAR, _source_file VARCHAR, _rescued_data JSON
)
"""
ADDING = ("levels", "types", "names", "limit", "refused", "conflict", "fence")


# The table and the writer: one lake, and a stream for each test


class Drifting:
    """A writer at work on a lake of its own, whose streams are all alike and grow, but for one."""

    def __init__(self, tenant: Tenant, project_dir: Path, folder: Path) -> None:
        self.tenant = tenant
        self.project_dir = project_dir
        self.defined: Definitions = definitions(project_dir=project_dir)
        self.lake = open_lake(tenant)
        self.epoch: Epoch = start_term(self.lake, self.defined)
        self.writer = Writer(lambda: open_lake(tenant), epoch=self.epoch, limits=BatchLimits())
        self.writer.start()
        self._folder = folder
        self._files = 0

    def stream(self, name: str) -> Stream:
        stream = self.defined.streams.get(StreamId(source="probe", stream=name))
        assert stream is not None
        return stream

    def close(self) -> None:
        self.writer.close(timeout_s=TIMEOUT_S)
        self.lake.close()

    def plan(self, stream: str, table: Any) -> Load:
        """Plans a file against the columns that the stream has now."""
        body = io.BytesIO()
        pq.write_table(table, body)
        self._files += 1
        key = f"raw/probe/{stream}/year=2026/month=07/day=04/{self._files:04}.parquet"
        file = LandingFile(key=key, source="", stream="", body=body.getvalue(), rows=0, overwrites=False)
        return load_of(file, self.defined, folder=self._folder)

    def grow(self, name: str, table: Any) -> Grown:
        """Has the table get what a file brings, and the stream the table's columns."""
        path = self._folder / "grow.parquet"
        pq.write_table(table, path)
        schema, stream = inspect(path, Limits()).schema, self.stream(name)
        grown = self.writer.call(
            lambda lake: grow_table(lake, stream, schema, epoch=self.epoch, max_columns=MAX_COLUMNS)
        ).result(TIMEOUT_S)
        self.defined.streams.take_columns(stream.id, grown.columns)
        return grown

    def load(self, *loads: Load) -> None:
        """Loads files in one batch, if the writer is as quick as that."""
        for future in [self.writer.submit(load) for load in loads]:
            future.result(TIMEOUT_S)

    def rows(self, stream: str, columns: str) -> list[tuple[object, ...]]:
        return self.lake.query(f"SELECT {columns} FROM staging.stg_probe__{stream} ORDER BY id")


@pytest.fixture(scope="module")
def drifting(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drifting]:
    folder = tmp_path_factory.mktemp("drifting")
    shutil.copytree(find_project(None).ddl / "meta", folder / "ddl" / "meta")
    (folder / "transforms").mkdir()
    (folder / "ddl" / "probe").mkdir()
    for name, policy in [*((name, "add") for name in ADDING), ("still", "rescue")]:
        file = folder / "ddl" / "probe" / f"stg_probe__{name}.sql"
        file.write_text(TABLE.format(name=name, policy=policy))
    drifting = Drifting(stack.tenant("drifting"), folder, tmp_path_factory.mktemp("files"))
    yield drifting
    drifting.close()


def added(grown: Grown) -> list[str]:
    return [".".join(each.path) for each in grown.growth.added]


LINES = pa.list_(
    pa.struct(
        [
            ("id", pa.int64()),
            ("gift", pa.string()),
            ("taxes", pa.list_(pa.struct([("title", pa.string()), ("new", pa.int64())]))),
        ]
    )
)


def test_columns_and_fields_at_every_level_load_without_rescue_and_old_files_load_as_before(
    drifting: Drifting,
) -> None:
    new = pa.table(
        {
            "id": [2],
            "Loyalty": [{"tier": "gold", "points": 7}],
            "customer": [{"id": 5, "vip": True}],
            "lines": pa.array([[{"id": 20, "gift": "yes", "taxes": [{"title": "t", "new": 1}]}]], LINES),
        }
    )
    drifting.load(drifting.plan("levels", pa.table({"id": [1], "lines": [[{"id": 10}]]})))
    plain = drifting.plan("levels", pa.table({"id": [4]}))
    before = drifting.plan("levels", pa.table({"id": [3], "customer": [{"id": 6, "vip": False}]}))
    assert before.plan.kind == "rescue"
    assert added(drifting.grow("levels", new)) == [
        "Loyalty",
        "customer.vip",
        "lines.element.gift",
        "lines.element.taxes.element.new",
    ]
    after = drifting.plan("levels", new)
    assert (after.plan.kind, after.plan.normalized, after.plan.drifts) == ("exact", False, ())
    # Rewritten files of both shapes of the table, and two that were planned before it grew: one batch.
    rewritten = drifting.plan("levels", pa.table({"id": ["5"], "loyalty": [{"tier": "tin", "points": "x"}]}))
    assert rewritten.plan.normalized
    drifting.load(before, after, plain, rewritten)
    columns = "id, loyalty, customer.vip, lines[1].gift, lines[1].taxes[1].new, _rescued_data"
    assert drifting.rows("levels", columns) == [
        (1, None, None, None, None, None),
        (2, {"tier": "gold", "points": 7}, True, "yes", 1, None),
        (3, None, None, None, None, '{"customer.vip":false}'),
        (4, None, None, None, None, None),
        (5, {"tier": "tin", "points": None}, None, None, None, '{"loyalty.points":"x"}'),
    ]


def test_the_same_column_again_is_no_change_and_with_another_type_a_cast_or_a_rescue(
    drifting: Drifting,
) -> None:
    assert added(drifting.grow("types", pa.table({"id": [1], "score": [1]}))) == ["score"]
    snapshot = one(drifting.lake, "SELECT id FROM lakehouse.current_snapshot()")
    assert added(drifting.grow("types", pa.table({"id": [1], "SCORE": ["x"]}))) == []
    assert one(drifting.lake, "SELECT id FROM lakehouse.current_snapshot()") == snapshot
    narrow = drifting.plan("types", pa.table({"id": [1], "Score": pa.array([5], pa.int16())}))
    text = drifting.plan("types", pa.table({"id": [2, 3], "score": ["6", "many"]}))
    assert (narrow.plan.kind, narrow.plan.normalized) == ("widen", False)
    drifting.load(narrow, text)
    assert drifting.rows("types", "score, _rescued_data") == [
        (5, None),
        (6, None),
        (None, '{"score":"many"}'),
    ]


def test_odd_names_are_columns_and_hostile_ones_are_rescued(drifting: Drifting) -> None:
    odd = ['q"q', "s'q", "a.b", "select", "é", "É", "%s", "$1", "; DROP TABLE x", "[]", "element", "x" * 128]
    hostile = ["rowid", "year", "_airbyte_extra", "x\ny", "_rescued_data", "x" * 129, "ID"]
    table = pa.table({"id": [1]} | {name: [name] for name in [*odd, *hostile]})
    grown = drifting.grow("names", table)
    assert added(grown) == odd
    assert len(grown.growth.not_added) == len(hostile)
    load = drifting.plan("names", table)
    drifting.load(load)
    assert drifting.rows("names", ", ".join(map(quote_identifier, odd))) == [tuple(odd)]
    assert set(load.plan.rescued_paths) == set(hostile)
    assert drifting.rows("names", "len(json_keys(_rescued_data))") == [(len(hostile),)]


def test_a_table_grows_to_the_limit_and_no_further(drifting: Drifting) -> None:
    grown = drifting.grow("limit", pa.table({f"c{number}": [number] for number in range(100)}))
    assert (
        len(grown.growth.added) == MAX_COLUMNS - 4
    )  # id, customer.id, lines.id and lines.taxes.title are there
    assert "LOTUS_FILE_MAX_COLUMNS" in grown.growth.not_added[0].why
    assert drifting.grow("limit", pa.table({"one_more": [1]})).growth.added == ()


def test_what_the_lake_refuses_is_left_out_and_the_rest_added(
    drifting: Drifting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def any_name(_: str) -> bool:
        return True

    monkeypatch.setattr(feeders.growth, "is_column_name", any_name)
    table = pa.table({"id": [1], "good": [1], "": [2], "better": [3]})
    grown = drifting.grow("refused", table)
    assert added(grown) == ["good", "better"]
    assert grown.refused == {("",)}
    assert [(each.path, each.why) for each in grown.growth.not_added] == [("", "the lake refused it")]
    drifting.load(drifting.plan("refused", table))
    assert drifting.rows("refused", "good, better, _rescued_data") == [(1, 3, '{"":2}')]


@contextmanager
def before_commits(act: Callable[[], object], times: int) -> Generator[None]:
    """Does something just before each of the next COMMITs of this process's lakes."""
    left = times

    def hook(name: str) -> None:
        nonlocal left
        if name == "committing" and left:
            left -= 1
            act()

    fault.arm(hook)
    try:
        yield
        assert left == 0
    finally:
        fault.arm(None)


def test_an_add_that_was_rolled_back_by_a_conflict_is_tried_again(
    drifting: Drifting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturb() -> None:
        # Any commit: overlapping ones exclude each other.
        drifting.lake.query("CREATE OR REPLACE TABLE main.disturbance AS SELECT 1 AS one")

    table = pa.table({"id": [1], "late": ["x"]})
    with before_commits(disturb, times=2):
        assert added(drifting.grow("conflict", table)) == ["late"]
    drifting.load(drifting.plan("conflict", table))
    assert drifting.rows("conflict", "late") == [("x",)]
    # It is not tried for ever; then the key is tried again later, and finds that nothing was added.
    monkeypatch.setattr(feeders.apply, "MAX_CONFLICTS", 1)
    with before_commits(disturb, times=1), pytest.raises(LakeConflict):
        drifting.grow("conflict", pa.table({"id": [1], "never": [1]}))
    assert added(drifting.grow("conflict", pa.table({"id": [1], "never": [1]}))) == ["never"]


def test_a_new_term_knows_the_columns_and_an_old_one_adds_none(drifting: Drifting) -> None:
    """The last test of this lake: its writer ends."""
    drifting.grow("fence", pa.table({"id": [1], "in_time": ["x"], "customer": [{"vip": True}]}))
    drifting.lake.query("ALTER TABLE staging.stg_probe__still ADD COLUMN by_hand VARCHAR")
    assert preview_ddl(drifting.lake, drifting.defined.tables) == []
    again = definitions(project_dir=drifting.project_dir)
    still = again.streams.get(drifting.stream("still").id)

    def overtake() -> None:
        # After the statements, before the COMMIT: what they read was their own term still.
        assert apply_ddl(drifting.lake, again.tables, again.streams, version="0.0.test") == []
        start_term(drifting.lake, again)

    with before_commits(overtake, times=1), pytest.raises(LakeFenced):
        drifting.grow("fence", pa.table({"id": [1], "late": ["x"]}))
    assert isinstance(drifting.writer.ended.exception(TIMEOUT_S), LakeFenced)
    described = drifting.lake.query("SELECT column_name FROM (DESCRIBE staging.stg_probe__fence)")
    assert ("in_time",) in described
    assert ("late",) not in described

    assert again.streams.get(drifting.stream("fence").id) == drifting.stream("fence")
    route = again.streams.route("raw/probe/fence/year=2026/month=07/day=04/x.parquet")
    assert route is not None
    assert route.stream == drifting.stream("fence")
    # A stream that does not add has the DDL's columns, whatever its table has.
    assert again.streams.get(drifting.stream("still").id) == still


# The service


DAY = "year=2026/month=07/day=04"
STAGED = "staging.stg_shopify__orders"


@pytest.fixture(scope="module")
def project_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, but orders get the columns that their files bring, and customers may bring none."""
    folder = tmp_path_factory.mktemp("project")
    project = find_project(None)
    shutil.copytree(project.ddl, folder / "ddl")
    shutil.copytree(project.transforms, folder / "transforms")
    for table, policy in (("orders", "add"), ("customers", "reject")):
        file = folder / "ddl" / "shopify" / f"stg_shopify__{table}.sql"
        file.write_text(file.read_text().replace("on_new_column: rescue", f"on_new_column: {policy}"))
    return folder


def drifted_files(service: RunningService) -> dict[tuple[str, str], int]:
    """How many files drifted, by stream and kind."""
    samples = [each for metric in service.service.metrics.drift.collect() for each in metric.samples]
    return {
        (each.labels["stream"], each.labels["kind"]): int(each.value)
        for each in samples
        if each.name.endswith("_total")
    }


def told(lines: Sequence[Mapping[str, Any]], event: str) -> list[tuple[str, str | None, list[str]]]:
    """The lines of one kind: stream, kind and columns."""
    return [(each["stream"], each.get("kind"), each["columns"]) for each in lines if each["event"] == event]


def dead_letter(service: RunningService, key: str) -> tuple[str, int, dict[str, Any]]:
    """Waits for the dead letter of a key: reason, attempts, detail."""
    sql = "SELECT reason, attempts, detail FROM meta.feeder_failures WHERE key = ?"
    rows = wait_until(lambda: service.rows(sql, key), timeout_s=TIMEOUT_S, what=f"a dead letter of {key}")
    reason, attempts, detail = rows[0]
    assert isinstance(reason, str)
    assert isinstance(attempts, int)
    return reason, attempts, json.loads(str(detail))


def test_a_sync_that_adds_columns_loses_nothing_and_the_next_term_knows_them(
    tenant: Tenant, project_dir: Path
) -> None:
    settings = {"LOTUS_PROJECT_DIR": str(project_dir)}
    bodies = {order_key(f"plain-{number}"): orders(number) for number in range(4)}
    bodies |= {
        order_key(f"a-{number}"): orders(number, note_a=number, time_a=time(1)) for number in range(4, 10)
    }
    bodies |= {order_key("b"): orders(10, Note_B={"x": [1]}), order_key("text"): orders(11, NOTE_A="12")}
    bodies |= {f"raw/klaviyo/lists/{DAY}/{number}.parquet": parquet([{"id": "x"}]) for number in range(4)}
    with capture_logs() as lines, running_service(tenant, **settings) as service:
        with service.expecting(loaded=len(bodies)):
            put_all(tenant, bodies)
        assert set(service.outcomes()) == {"loaded"}
        # Which of the files came first decides whether note_a is a number or a text.
        rows = service.rows(
            f"SELECT id, note_a::VARCHAR, note_b, _rescued_data->>'time_a' FROM {STAGED} ORDER BY id"
        )
        nothing = [(number, None, None, None) for number in range(4)]
        numbers = [(number, str(number), None, "01:00:00") for number in range(4, 10)]
        assert rows == [*nothing, *numbers, (10, None, {"x": [1]}, None), (11, "12", None, None)]
        # One file each had them added, and that is told once; so is what no column holds.
        assert drifted_files(service)["orders", "add"] == 2
        assert drifted_files(service)["orders", "rescue"] == 6
        assert len([each for each in told(lines, "drift") if each[1] == "add"]) == 2
        assert len([each for each in told(lines, "drift") if each[1] == "rescue"]) == 1
        assert told(lines, "columns not added") == [
            ("shopify.orders", None, ["time_a: no type of a table holds it"])
        ]
        assert not [key for key in drifted_files(service) if key[0] != "orders"]
        # Models run on the table with more columns.
        service.wait_for_rows("SELECT count(*) FROM main.fct_sales", [(12,)])

        # Somebody drops a column; a file that brings it loads all the same.
        alter(tenant, f"ALTER TABLE {STAGED} DROP COLUMN note_b")
        with service.expecting(loaded=2):
            put_all(tenant, {order_key("b2"): orders(13, note_b={"x": [2]}), order_key("c"): orders(14)})
        assert service.rows(f"SELECT note_b, _rescued_data FROM {STAGED} WHERE id = 13") == [
            ({"x": [2]}, None)
        ]
        assert set(service.outcomes()) == {"loaded"}
    defined = definitions(project_dir=project_dir)
    lake = open_lake(tenant, instance="d-test")
    assert preview_ddl(lake, defined.tables) == []
    lake.close()
    with capture_logs() as lines, running_service(tenant, **settings) as service:
        with service.expecting(loaded=1):
            service.put(order_key("again"), orders(15, note_b={"x": [3]}))
        assert service.rows(f"SELECT note_b, _rescued_data FROM {STAGED} WHERE id = 15") == [
            ({"x": [3]}, None)
        ]
        assert drifted_files(service) == {}
        assert told(lines, "drift") == []


def alter(tenant: Tenant, statement: str) -> None:
    """Changes a table as a person does, who tries again when the writer was quicker."""
    lake = open_lake(tenant, instance="d-hand")

    def done() -> bool:
        try:
            lake.query(statement)
        except LakeConflict:
            return False
        return True

    wait_until(done, timeout_s=TIMEOUT_S, what=statement)
    lake.close()


def broken_page() -> bytes:
    """A file whose footer is sound, and the pages of one column of its second row group are not."""
    table = pa.table({"id": pa.array(range(200)), "email": [f"secret-{number}" for number in range(200)]})
    body = io.BytesIO()
    pq.write_table(table, body, row_group_size=100)
    data = bytearray(body.getvalue())
    column = pq.ParquetFile(body).metadata.row_group(1).column(1)
    begin = column.dictionary_page_offset
    data[begin : begin + column.total_compressed_size] = bytes(column.total_compressed_size)
    return bytes(data)


def test_dead_letters_say_what_was_found_and_what_was_expected(tenant: Tenant, project_dir: Path) -> None:
    customers = f"raw/shopify/customers/{DAY}"
    lists = f"raw/klaviyo/lists/{DAY}"
    with capture_logs() as lines, running_service(tenant, LOTUS_PROJECT_DIR=str(project_dir)) as service:
        alter(tenant, "ALTER TABLE staging.stg_klaviyo__lists DROP COLUMN type")
        new = parquet(
            [{"id": 1, "email": "secret", "Colour": "red", "_airbyte_meta": {"sync_id": 1, "moon": 1}}]
        )
        with service.expecting(poison=2, loaded=3):
            service.put(f"{lists}/unexpected.parquet", parquet([{"id": "secret"}]))
            service.put(f"{customers}/new.parquet", new)
            service.put(f"{customers}/page.parquet", broken_page())
            # Columns in another order and case, narrower ones and fewer of them are not new ones.
            service.put(f"{customers}/a.parquet", parquet([{"EMAIL": "a@b", "ID": 1}]))
            narrow = pa.table({"id": pa.array([1], pa.int16())})
            body = io.BytesIO()
            pq.write_table(narrow, body)
            service.put(f"{customers}/b.parquet", body.getvalue())
            service.put(f"raw/klaviyo/profiles/{DAY}/c.parquet", parquet([{"id": "1", "Colour": "red"}]))

        reason, attempts, detail = dead_letter(service, f"{customers}/new.parquet")
        assert (reason, attempts) == ("schema_rejected", 1)
        assert detail["columns"] == "Colour VARCHAR, _airbyte_meta.moon BIGINT"
        assert detail["found"] == 2
        assert "id int64, email string, Colour string" in detail["found_schema"]
        assert "id BIGINT, " in detail["expected_schema"]
        assert all(len(str(value)) <= MAX_SCHEMA_CHARACTERS for value in detail.values())

        reason, attempts, detail = dead_letter(service, f"{customers}/page.parquet")
        assert (reason, attempts) == ("corrupt", 1)
        assert (detail["row_group"], detail["column"]) == (1, "email")
        assert detail["error_class"].isidentifier()  # of whichever reader found it
        assert detail["found_schema"] == "id int64, email string"

        reason, attempts, detail = dead_letter(service, f"{lists}/unexpected.parquet")
        assert (reason, attempts) == ("unexpected", 3)
        assert detail["error_class"] == "BinderException"
        assert "type" in detail["error"]
        assert detail["found_schema"] == "id string"
        assert "type VARCHAR" in detail["expected_schema"]

        assert (
            service.rows("SELECT key FROM meta.feeder_failures WHERE detail::VARCHAR ILIKE '%secret%'") == []
        )
        assert "secret" not in str(lines)
        assert drifted_files(service) == {
            ("customers", "reject"): 1,
            ("customers", "widen"): 1,
            ("profiles", "rescue"): 1,
        }
        assert sorted(told(lines, "drift")) == [
            ("klaviyo.profiles", "rescue", ["Colour: string, not in the table"]),
            (
                "shopify.customers",
                "reject",
                ["Colour: VARCHAR, not in the table", "_airbyte_meta.moon: BIGINT, not in the table"],
            ),
            ("shopify.customers", "widen", ["id: int16 for BIGINT"]),
        ]
