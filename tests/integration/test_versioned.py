"""A versioned bucket: what the plain key answers decides, whichever version an event or a listing names."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.cli.sweep import sweep_and_report
from consumer.embedded.stack import Stack
from tests.bucketful import removing_project
from tests.integration.test_filer_tail import Landing
from tests.service import RunningService, order_key, orders, running_service

ORDERS_KEY = order_key("a")
CUSTOMERS_KEY = "raw/shopify/customers/2026_07_04_1_1.parquet"
A, B = orders(1), orders(2, 3)


class Versioned:
    """The landing bucket with versioning, in which one key of a stream that removes and one that keeps is changed."""

    def __init__(self, service: RunningService, landing: Landing) -> None:
        self.service = service
        self.landing = landing

    def call(self, operation: str, key: str, **parameters: object) -> dict[str, Any]:
        """One S3 request."""
        return asyncio.run(self.landing.call(operation, key, **parameters))

    def change(self, outcomes: dict[str, int], act: Callable[[str], str]) -> list[str]:
        """Does the same to both keys, and waits for what comes of it; returns the versions that were made."""
        with self.service.expecting(**outcomes):
            return [act(key) for key in (ORDERS_KEY, CUSTOMERS_KEY)]

    def put(self, body: bytes) -> Callable[[str], str]:
        return lambda key: self.call("put_object", key, Body=body)["VersionId"]

    def hide(self, key: str) -> str:
        """Deletes the key: a delete marker is put upon it."""
        return self.call("delete_object", key)["VersionId"]

    def drop(self, versions: list[str]) -> Callable[[str], str]:
        """Deletes these versions, or delete markers."""
        left = iter(versions)
        return lambda key: self.call("delete_object", key, VersionId=next(left))["VersionId"]

    def ids(self, stream: str) -> list[int]:
        """What is in staging."""
        rows = self.service.rows(f"SELECT id FROM staging.stg_shopify__{stream} ORDER BY id")
        return [int(str(number)) for (number,) in rows]

    def agrees(self, removing: list[int], keeping: list[int]) -> None:
        """Asserts what is in staging, and that a sweep finds nothing to do."""
        assert (self.ids("orders"), self.ids("customers")) == (removing, keeping)


def test_staging_follows_the_plain_key(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = stack.tenant("versioned")
    admin = Landing(tenant, stack.admin)
    asyncio.run(admin.call("put_object", ORDERS_KEY, Body=A))
    asyncio.run(admin.call("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"}))
    project = str(removing_project(tmp_path))
    with running_service(
        tenant, LOTUS_PROJECT_DIR=project, LOTUS_SWEEP_MAX_REMOVED_PERCENT="100", LOTUS_SWEEP_INTERVAL_S="0"
    ) as service:
        service.wait_for_outcomes(loaded=1)  # what was put before versioning has no version
        versioned = Versioned(service, admin)

        def sweep_finds_nothing(*, gone: int = 0) -> None:
            sweep_and_report(service.settings, confirm=None, dry_run=True, as_json=False)
            said = capsys.readouterr().out.splitlines()
            assert any(f"0 new and {gone} gone would be published" in line for line in said), said

        bs = versioned.change({"replaced": 1, "loaded": 1}, versioned.put(B))
        versioned.agrees([2, 3], [2, 3])
        as_ = versioned.change({"replaced": 2}, versioned.put(A))
        versioned.agrees([1], [1])
        sweep_finds_nothing()
        markers = versioned.change({"removed": 1, "kept": 1}, versioned.hide)
        versioned.agrees([], [1])
        sweep_finds_nothing()
        versioned.change({"loaded": 1, "duplicate": 1}, versioned.drop(markers))
        versioned.agrees([1], [1])
        versioned.change({"replaced": 2}, versioned.drop(as_))
        versioned.agrees([2, 3], [2, 3])
        # An old version goes: nothing happens to the rows.
        again = versioned.change({"replaced": 2}, versioned.put(A))
        versioned.change({"superseded": 2}, versioned.drop(bs))
        versioned.agrees([1], [1])
        sweep_finds_nothing()
        history = service.rows(
            "SELECT action, version_id FROM meta.feeder_files WHERE key = ? ORDER BY epoch, loaded_at",
            ORDERS_KEY,
        )
        assert history == [
            ("loaded", None),
            ("replaced", bs[0]),
            ("replaced", as_[0]),
            ("removed", None),
            ("loaded", as_[0]),
            ("replaced", bs[0]),
            ("replaced", again[0]),
        ]
        history = service.rows(
            "SELECT action, version_id FROM meta.feeder_files WHERE key = ? ORDER BY epoch, loaded_at",
            CUSTOMERS_KEY,
        )
        assert history == [
            ("loaded", bs[1]),
            ("replaced", as_[1]),
            ("replaced", bs[1]),
            ("replaced", again[1]),
        ]
