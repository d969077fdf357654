"""`lotus-lake adopt`: an old lake whose rows are those of its files is taken over, any other is left as it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from feeders.lake import Lake
from tests.asking import Document, command
from tests.bucketful import Bucketful, removing_project
from tests.exact import assert_exact
from tests.landed import wait_until_loaded
from tests.old_lakes import (
    CUSTOMERS,
    TABLE,
    add_rows,
    body_of,
    cursor_at,
    lake_of,
    make_old,
    make_old_again,
    snapshot_of,
)
from tests.processes import consumer_process
from tests.service import in_landing, order_key, put, put_all, running_service

A, B, C = order_key("a"), order_key("b"), order_key("c")
FILES = {A: ["a1", "a2"], B: ["b1", "b2", "b3"], C: ["c1"]}
AB = ["a1", "a2", "b1", "b2", "b3"]
CUSTOMER = "raw/shopify/customers/2026_07_04_1_1.parquet"
ALONE = {"LOTUS_FILER_GRPC": "", "LOTUS_NOTIFICATIONS": "false"}


def land(tenant: Tenant, files: Mapping[str, Sequence[str | None]]) -> dict[str, str]:
    """Puts files whose rows have these raw ids; returns their etags."""
    return put_all(tenant, {key: body_of(raw_ids) for key, raw_ids in files.items()})


def adopt(tenant: Tenant, *arguments: str, **changes: str) -> tuple[int, Document]:
    """The exit status, and what --json prints."""
    done = command(tenant, "adopt", *arguments, "--json", **changes)
    assert done.stdout, done.output
    return done.exit_code, json.loads(done.stdout)


def refused(tenant: Tenant, *arguments: str, **changes: str) -> tuple[int, str]:
    """The exit status, and what is said on standard error."""
    done = command(tenant, "adopt", *arguments, **changes)
    return done.exit_code, done.stderr


def stream_of(document: Document, name: str = "orders") -> dict[str, Any]:
    [found] = [each for each in document["streams"] if each["stream"] == name]
    return found


def named(document: Document) -> set[tuple[object, ...]]:
    fields = ("kind", "table", "key", "rows", "rows_in_file", "rows_in_staging")
    return {tuple(each[field] for field in fields) for each in document["named"]}


def sources(lake: Lake, table: str = TABLE) -> list[tuple[object, ...]]:
    return lake.query(
        f"SELECT _airbyte_raw_id, id, year, month, day, _source_file, _rescued_data FROM {table} ORDER BY 1"
    )


def rows_of(files: Mapping[str, Sequence[str]]) -> list[tuple[object, ...]]:
    return sorted(
        (raw_id, number, 2026, "07", "04", key, None)
        for key, raw_ids in files.items()
        for number, raw_id in enumerate(raw_ids)
    )


def ledger(lake: Lake) -> list[tuple[object, ...]]:
    return lake.query(
        "SELECT key, etag, size_bytes, rows, rescued_rows, action, found_by FROM meta.feeder_files ORDER BY key"
    )


def fill(
    tenant: Tenant, tables: Mapping[str, Sequence[str | None]], cursors: Mapping[str, str] | None
) -> int:
    """Makes an old lake; returns its newest snapshot."""
    with lake_of(tenant) as lake:
        make_old(lake, tables, cursors)
        return snapshot_of(lake)


def ordered(tenant: Tenant) -> int:
    """An old lake up to B, whose bucket has C too."""
    return fill(tenant, {TABLE: ["a1", "a2"], CUSTOMERS: []}, cursor_at(B)) + _add(tenant, ["b1", "b2", "b3"])


def _add(tenant: Tenant, raw_ids: Sequence[str]) -> int:
    with lake_of(tenant) as lake:
        add_rows(lake, TABLE, raw_ids)
    return 1


def test_what_agrees_is_adopted_and_not_loaded_again(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    etags = land(tenant, FILES)
    before = ordered(tenant)
    monkeypatch.setattr("feeders.adopt.WINDOW", 2)  # several statements write the rows
    assert "lotus-lake adopt" in command(tenant, "ddl", "apply").stderr

    # Looking first changes nothing.
    status, document = adopt(tenant)
    assert (status, document["applied"], document["agrees"]) == (0, False, True)
    assert stream_of(document) == {
        "source": "shopify",
        "stream": "orders",
        "table": TABLE,
        "state": "agrees",
        "cursor": B,
        "files": 3,
        "adopted_files": 2,
        "adopted_rows": 5,
        "files_to_load": 1,
        "rows_in_staging": 5,
    }
    shown = command(tenant, "adopt")
    assert "2 files with 5 rows of 1 streams would be adopted; --apply writes it" in shown.stdout
    with lake_of(tenant) as lake:
        assert snapshot_of(lake) == before

    status, document = adopt(tenant, "--apply", "--by", "ann")
    assert (status, document["applied"]) == (0, True)
    with lake_of(tenant) as lake:
        assert sources(lake) == rows_of({A: FILES[A], B: FILES[B]})
        adopted = [(key, etags[key], len(body_of(FILES[key])), len(FILES[key])) for key in (A, B)]
        assert ledger(lake) == [(*each, 0, "adopted", "adopt") for each in adopted]
        assert lake.query("SELECT DISTINCT bucket, requested_by, epoch FROM meta.feeder_files") == [
            (tenant.landing_bucket, "ann", 1)
        ]
        assert lake.query(
            "SELECT source, stream, cursor_path, cursor_date::VARCHAR, files, rows FROM meta.feeder_cursors"
        ) == [("shopify", "orders", B, "2026-07-04", 2, 5)]
        after = snapshot_of(lake)

    # Once more there is nothing to do.
    status, document = adopt(tenant, "--apply")
    assert (status, stream_of(document)["state"]) == (0, "in the ledger")
    with lake_of(tenant) as lake:
        assert snapshot_of(lake) == after

    with running_service(tenant, **ALONE) as service:
        service.wait_for_outcomes(loaded=1)
        service.wait_for_rows(f"SELECT count(*) FROM {TABLE}", [(6,)])
        assert sources(service.lake) == rows_of(FILES)
        # The ledger says of a version what a load of it says.
        for key in (A, B):
            facts = in_landing(tenant, tenant.loader, lambda bucket, key=key: bucket.head(key))
            assert service.rows(
                "SELECT etag, version_id, size_bytes, last_modified FROM meta.feeder_files WHERE key = ?", key
            ) == [(facts.etag, facts.version_id, facts.size_bytes, facts.last_modified)]
        assert command(tenant, "audit").exit_code == 0
        # An adopted version is no news; another one replaces its rows.
        with service.expecting(replayed=1):
            assert command(tenant, "replay", A, "--reason", "test").exit_code == 0
        put(tenant, B, body_of(["b9"]))
        with service.expecting(replaced=1):
            assert command(tenant, "sweep").exit_code == 0
        assert sources(service.lake) == rows_of(FILES | {B: ["b9"]})
        assert command(tenant, "audit").exit_code == 0


@pytest.mark.timeout(300)
def test_a_whole_lake_goes_on_as_if_it_had_always_been_ours(tenant: Tenant, tmp_path: Path) -> None:
    bucketful = Bucketful(
        tenant=tenant,
        landing=Landing(seed=9, files=None, rows=(3, 12)),
        project_dir=removing_project(tmp_path),
    )
    settings = {"LOTUS_PROJECT_DIR": str(bucketful.project_dir)}
    with consumer_process(tenant, tmp_path / "first", settings=settings) as consumer:
        bucketful.land(24)
        wait_until_loaded(bucketful)
        assert consumer.terminate() == 0, consumer.tail()
    with lake_of(tenant) as lake:
        make_old_again(lake, {})
    with consumer_process(tenant, tmp_path / "refused", settings=settings) as consumer:
        assert consumer.wait_for_end() == 3
        assert "lotus-lake adopt" in consumer.tail()
    loaded = sum(1 for key in bucketful.bodies if key not in bucketful.broken)
    bucketful.land(6)
    status, document = adopt(tenant, "--apply", **settings)
    assert (status, document["named"][:3]) == (0, [])
    assert sum(each["adopted_files"] for each in document["streams"]) == loaded
    with consumer_process(tenant, tmp_path / "second", settings=settings) as consumer:
        wait_until_loaded(bucketful)
        gone = next(key for key in bucketful.bodies if "/orders/" in key and key not in bucketful.broken)
        bucketful.delete(gone)
        bucketful.land(6)
        wait_until_loaded(bucketful)
        assert_exact(bucketful)
        assert command(tenant, "audit", **settings).exit_code == 0
        assert consumer.terminate() == 0, consumer.tail()
