"""Drift at work: what is told once, what is counted always, and that files of one stream grow its table once."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

import consumer.drifting
from consumer.drifting import MOST_IN_A_LINE, MOST_TOLD, DriftReport, Growing
from consumer.metrics import Metrics
from feeders.apply import Grown
from feeders.drift import Drift, DriftKind
from feeders.epoch import Epoch
from feeders.errors import LakeConflict
from feeders.growth import NotAdded, plan_growth
from feeders.parquet_types import FileField, FileScalar, FileSchema, FileStruct
from feeders.streams import LOADER_COLUMNS, Column, Stream, StreamId, StreamTable
from feeders.writer import Writer

STREAM = Stream(
    id=StreamId(source="probe", stream="items"),
    table="stg_probe__items",
    landing=("raw/probe/items",),
    columns=(Column(name="id", type="BIGINT"), *LOADER_COLUMNS),
    on_new_column="add",
    on_delete="keep",
)
OTHER = replace(STREAM, id=StreamId(source="probe", stream="other"), landing=("raw/probe/other",))


def drift(path: str, kind: DriftKind = "rescue") -> Drift:
    return Drift(kind=kind, path=path, expected=None, found="string")


def counted(metrics: Metrics, kind: str, stream: Stream = STREAM) -> int:
    found = metrics.registry.get_sample_value(
        "lotus_lake_drift_files_total",
        {"source": stream.id.source, "stream": stream.id.stream, "kind": kind},
    )
    return int(found or 0)


def test_each_file_is_counted_and_only_what_is_new_is_told() -> None:
    metrics = Metrics()
    report = DriftReport(metrics)
    with capture_logs() as lines:
        for _ in range(100):
            report.drifted(STREAM, "rescue", [drift("a"), drift("b")])
        report.drifted(STREAM, "rescue", [drift("a"), drift("c")])
        report.drifted(STREAM, "widen", [drift("a", "widen")])
        report.drifted(OTHER, "rescue", [drift("a")])
    assert [(each["stream"], each["kind"], each["columns"]) for each in lines] == [
        ("probe.items", "rescue", ["a: string, not in the table", "b: string, not in the table"]),
        ("probe.items", "rescue", ["c: string, not in the table"]),
        ("probe.items", "widen", ["a: string, not in the table"]),
        ("probe.other", "rescue", ["a: string, not in the table"]),
    ]
    assert (counted(metrics, "rescue"), counted(metrics, "widen")) == (101, 1)
    assert counted(metrics, "rescue", OTHER) == 1


def test_what_a_table_does_not_get_is_told_once_with_the_reason() -> None:
    report = DriftReport(Metrics())
    with capture_logs() as lines:
        for _ in range(3):
            report.not_added(STREAM, [NotAdded(path="year", why="its name is reserved")])
    assert [(each["event"], each["columns"]) for each in lines] == [
        ("columns not added", ["year: its name is reserved"])
    ]


def test_a_stream_that_names_columns_anew_in_each_file_fills_no_log() -> None:
    metrics = Metrics()
    report = DriftReport(metrics)
    with capture_logs() as lines:
        for file in range(500):
            report.drifted(STREAM, "rescue", [drift(f"{file} {number}") for number in range(50)])
    assert counted(metrics, "rescue") == 500
    assert all(len(each["columns"]) == MOST_IN_A_LINE for each in lines if each["event"] == "drift")
    assert all(each["more"] == 50 - MOST_IN_A_LINE for each in lines if each["event"] == "drift")
    assert len([each for each in lines if each["event"] == "drift"]) == MOST_TOLD // 50
    assert lines[-1]["event"] == "drift"
    assert lines[-2]["event"] == "drift is only counted from here on"


# Growing


def schema(*names: str) -> FileSchema:
    fields = [FileField(name=name, type=FileScalar(kind="string", index=0)) for name in ("id", *names)]
    return FileSchema(
        fingerprint=",".join(names), root=FileStruct(fields=tuple(fields)), columns=(), elements=1
    )


class FakeWriter:
    """Runs what it is told to call when `release` is set; a fake lake has the columns of each stream."""

    def __init__(self) -> None:
        self.calls: list[StreamId] = []
        self.columns = {STREAM.id: STREAM.columns, OTHER.id: OTHER.columns}
        self.errors: list[Exception] = []
        self.release = threading.Event()
        self.held: list[tuple[Callable[[Any], Any], Future[Any]]] = []

    def call(self, function: Callable[[Any], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        self.held.append((function, future))
        if self.release.is_set():
            self.run()
        return future

    def run(self) -> None:
        while self.held:
            function, future = self.held.pop(0)
            try:
                future.set_result(function(None))
            except LakeConflict as error:
                future.set_exception(error)

    def grow(self, _: object, stream: Stream, found: FileSchema, **options: Any) -> Grown:
        self.calls.append(stream.id)
        if self.errors:
            raise self.errors.pop()
        growth = plan_growth(
            found, self.columns[stream.id], max_columns=options["max_columns"], refused=options["refused"]
        )
        self.columns[stream.id] += tuple(
            Column(name=each.path[0], type=each.type) for each in growth.added if each.path != ("no",)
        )
        return Grown(growth=growth, columns=self.columns[stream.id], refused=frozenset({("no",)}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWriter:
    fake = FakeWriter()
    monkeypatch.setattr(consumer.drifting, "grow_table", fake.grow)
    return fake


def growing(fake: FakeWriter, streams: StreamTable, metrics: Metrics) -> Growing:
    return Growing(
        streams=streams,
        writer=cast("Writer", fake),
        epoch=Epoch(1),
        max_columns=100,
        report=DriftReport(metrics),
    )


def names(stream: Stream) -> set[str]:
    return {each.name for each in stream.columns} - {each.name for each in LOADER_COLUMNS}


def test_of_many_files_that_bring_a_column_one_has_it_added_and_no_other_stream_waits(
    fake: FakeWriter,
) -> None:
    metrics, streams = Metrics(), StreamTable([STREAM, OTHER])
    grower = growing(fake, streams, metrics)

    async def run() -> list[Stream]:
        many = [asyncio.create_task(grower.grow(STREAM, schema("a"))) for _ in range(50)]
        await asyncio.sleep(0)
        assert len(fake.held) == 1
        other = asyncio.create_task(grower.grow(OTHER, schema("b")))
        await asyncio.sleep(0)
        assert len(fake.held) == 2  # of the other stream, though the first one waits
        fake.release.set()
        fake.run()
        assert names(await other) == {"id", "b"}
        return list(await asyncio.gather(*many))

    grown = asyncio.run(run())
    assert [names(each) for each in grown] == [{"id", "a"}] * 50
    assert fake.calls == [STREAM.id, OTHER.id]
    assert counted(metrics, "add") == counted(metrics, "add", OTHER) == 1
    # All that follow take the table as it is now.
    route = streams.route("raw/probe/items/year=2026/month=07/day=04/x.parquet")
    assert route is not None
    assert names(route.stream) == {"id", "a"}
    assert not grower.is_needed(route.stream, schema("a"))
    assert grower.is_needed(route.stream, schema("a", "c"))


def test_only_streams_that_add_grow(fake: FakeWriter) -> None:
    grower = growing(fake, StreamTable([STREAM]), Metrics())
    assert grower.is_needed(STREAM, schema("a"))
    assert not grower.is_needed(replace(STREAM, on_new_column="rescue"), schema("a"))
    assert not grower.is_needed(STREAM, schema())


def test_after_an_error_the_next_file_tries_again_and_the_lake_is_asked_when_a_load_failed(
    fake: FakeWriter,
) -> None:
    metrics = Metrics()
    grower = growing(fake, StreamTable([STREAM, OTHER]), metrics)
    fake.release.set()
    fake.errors = [LakeConflict("another commit")]

    async def run() -> None:
        with pytest.raises(LakeConflict):
            await grower.grow(STREAM, schema("a"))
        assert counted(metrics, "add") == 0
        stream = await grower.grow(STREAM, schema("a"))
        assert names(stream) == {"id", "a"}
        # Someone took the column away: only the lake knows.
        fake.columns[STREAM.id] = STREAM.columns
        assert names(await grower.grow(stream, schema("a"))) == {"id", "a"}
        assert len(fake.calls) == 2
        fake.columns[STREAM.id] = STREAM.columns
        stream = await grower.grow(stream, schema(), ask=True)
        assert names(stream) == {"id"}
        assert names(await grower.grow(stream, schema("a"), ask=True)) == {"id", "a"}

    asyncio.run(run())


def test_what_the_lake_refused_is_asked_for_once(fake: FakeWriter) -> None:
    grower = growing(fake, StreamTable([STREAM]), Metrics())
    fake.release.set()

    async def run() -> None:
        assert grower.is_needed(STREAM, schema("no"))
        stream = await grower.grow(STREAM, schema("no"))
        assert not grower.is_needed(stream, schema("no"))
        await asyncio.gather(*(grower.grow(stream, schema("no")) for _ in range(10)))

    asyncio.run(run())
    assert len(fake.calls) == 1
