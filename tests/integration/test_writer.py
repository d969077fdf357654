"""The writer: whole landings through the append transaction and the rebuilt models, on real servers."""

from pathlib import Path

import pytest

import feeders.writer
from consumer.embedded.identity import Tenant
from consumer.landing.compare import SALES_SELECT_LIST, compare_sales
from consumer.landing.generate import Landing
from feeders.lake import Lake
from feeders.transform import Transforms
from feeders.work import Outcome
from feeders.writer import BatchLimits, Writer
from tests.lakes import count, definitions, load_of, open_lake, start_term


def test_a_landing_ends_in_staging_exactly_and_in_the_expected_sales(tenant: Tenant, tmp_path: Path) -> None:
    defined = definitions()
    lake = open_lake(tenant)
    epoch = start_term(lake, defined)
    transforms = Transforms(defined.models, defined.streams, max_delay_s=1.0)
    writer = Writer(
        lambda: open_lake(tenant), epoch=epoch, limits=BatchLimits(), follow_up=transforms, lake=lake
    )
    writer.start()
    landing = Landing(seed=7, files=40)
    results = [writer.submit(load_of(file, defined, folder=tmp_path)) for file in landing]
    outcomes = {future.result(timeout=60).applied.outcome for future in results}
    assert outcomes <= {Outcome.LOADED, Outcome.REPLACED}
    assert writer.close(timeout_s=60)
    writer.ended.result()

    reader = open_lake(tenant, instance="r-test")
    for stream in defined.streams:
        assert count(reader, stream.qualified_table) == landing.rows_expected(stream.id)
    expected = landing.expected_sales()
    found = reader.query(f"SELECT {SALES_SELECT_LIST} FROM main.fct_sales")
    difference = compare_sales(expected, found)
    assert difference.equal, difference.describe()
    reader.close()


def test_a_duckdb_that_made_many_commits_is_replaced_when_no_work_waits(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeders.writer, "REOPEN_AFTER_COMMITS", 2)
    defined = definitions()
    lake = open_lake(tenant)
    epoch = start_term(lake, defined)
    opened: list[Lake] = []

    def open_another() -> Lake:
        opened.append(open_lake(tenant))
        return opened[-1]

    writer = Writer(open_another, epoch=epoch, limits=BatchLimits(), lake=lake)
    writer.start()
    landing = Landing(seed=8, files=5)
    for file in landing:
        # One commit each: the next file comes when the last one is loaded.
        writer.submit(load_of(file, defined, folder=tmp_path)).result(timeout=60)
    assert writer.close(timeout_s=60)
    assert len(opened) == 2
    reader = open_lake(tenant, instance="r-test")
    loaded = sum(count(reader, stream.qualified_table) for stream in defined.streams)
    assert loaded == sum(landing.rows_expected(stream.id) for stream in defined.streams)
    reader.close()


def test_a_duckdb_that_made_twice_as_many_commits_is_replaced_while_work_waits(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeders.writer, "REOPEN_AFTER_COMMITS", 1)
    defined = definitions()
    lake = open_lake(tenant)
    epoch = start_term(lake, defined)
    opened: list[Lake] = []

    def open_another() -> Lake:
        opened.append(open_lake(tenant))
        return opened[-1]

    writer = Writer(open_another, epoch=epoch, limits=BatchLimits(files=1), lake=lake)
    landed = list({file.key: file for file in Landing(seed=8, files=9)}.values())[:5]
    results = [writer.submit(load_of(file, defined, folder=tmp_path)) for file in landed]
    writer.start()
    for future in results:
        future.result(timeout=60)
    # After the second and the fourth; after the fifth no work waits any more, and nothing needs another one.
    assert len(opened) == 2
    assert writer.close(timeout_s=60)


def test_an_item_that_failed_before_shares_its_transaction_with_no_other(
    tenant: Tenant, tmp_path: Path
) -> None:
    defined = definitions()
    lake = open_lake(tenant)
    writer = Writer(
        lambda: open_lake(tenant), epoch=start_term(lake, defined), limits=BatchLimits(), lake=lake
    )
    landed = list({file.key: file for file in Landing(seed=9, files=20)}.values())[:7]
    loads = [load_of(file, defined, folder=tmp_path) for file in landed]
    # All are there when the writer begins, so that it takes as many as it may.
    results = [writer.submit(load, isolated=number in (0, 3)) for number, load in enumerate(loads)]
    writer.start()
    shares = [future.result(timeout=60).batch_items for future in results]
    assert shares == [1, 5, 5, 1, 5, 5, 5]
    assert writer.close(timeout_s=60)
