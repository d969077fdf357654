"""Waiting until a lake holds a landing, and what was announced of it. `assert_exact` proves it afterwards."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import nats
import psycopg

from consumer.embedded.identity import Tenant
from consumer.observer import newest_snapshot
from feeders.lake import Lake, LakeConfig, LakeError, StatementFailed
from feeders.models import Model
from tests.bucketful import Bucketful, Mischief, removing_project
from tests.exact import assert_exact
from tests.helpers import wait_until
from tests.key_queue import pending
from tests.lakes import lake_config

__all__ = [
    "Bucketful",
    "Mischief",
    "assert_exact",
    "dead_letters",
    "removing_project",
    "wait_until_loaded",
]

LOADED_TIMEOUT_S = 120.0


def wait_until_loaded(bucketful: Bucketful, *, timeout_s: float = LOADED_TIMEOUT_S) -> float:
    """Waits until the lake has what is in the bucket now, its models are fresh and the queue is empty.

    Returns:
        The seconds it took.
    """
    started = time.monotonic()
    wanted = {key: etag for key, etag in bucketful.etags.items() if key not in bucketful.broken}
    lacks = "never looked"
    with LakeWatch(lake_config(bucketful.tenant, instance="r-wait")) as watch:

        def loaded() -> bool:
            nonlocal lacks
            if lake := watch.changed():
                try:
                    lacks = what_lacks(lake, wanted, bucketful)
                except StatementFailed:
                    lacks = "the tables"
                except LakeError as error:
                    lacks = str(error)
                    watch.close()
            return not lacks and in_queue(bucketful) == 0

        try:
            wait_until(loaded, timeout_s=timeout_s, what="all objects to be loaded")
        except AssertionError as error:
            error.add_note(f"it lacks {lacks or f'an empty queue: {in_queue(bucketful)} keys'}")
            raise
    bucketful.note_loaded(wanted)
    return time.monotonic() - started


def in_queue(bucketful: Bucketful) -> int:
    """How many key events wait or are claimed."""
    return pending(bucketful.tenant, bucketful.defined.streams)


class LakeWatch:
    """A reader that asks DuckDB only after the catalog has a new snapshot: it leaves the CPU to the consumer."""

    def __init__(self, config: LakeConfig) -> None:
        self._config = config
        self._lake: Lake | None = None
        self._catalog: psycopg.Connection[tuple[object, ...]] | None = None
        self._seen = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def changed(self) -> Lake | None:
        """The lake, if there is a snapshot that was not looked at yet."""
        try:
            if self._catalog is None:
                self._catalog = self._config.catalog.connect(application="t-watch")
            newest = newest_snapshot(self._catalog, self._config.catalog)
            if newest <= self._seen:
                return None
            if self._lake is None:
                self._lake = Lake(self._config)
        except (LakeError, psycopg.Error):
            self.close()
            return None
        self._seen = newest
        return self._lake

    def close(self) -> None:
        """Closes both; the next look opens them again."""
        if self._lake is not None:
            self._lake.close()
        if self._catalog is not None:
            self._catalog.close()
        self._lake = self._catalog = None
        self._seen = -1


def what_lacks(lake: Lake, wanted: Mapping[str, str], bucketful: Bucketful) -> str:
    """Says what the lake does not hold yet, or holds still; empty if it is as it should be."""
    states = lake.query(
        "SELECT key, last(etag ORDER BY epoch, loaded_at), last(action ORDER BY epoch, loaded_at)"
        " FROM meta.feeder_files GROUP BY key"
    )
    found = {key: etag for key, etag, action in states if action != "removed"}
    if missing := wanted.items() - found.items():
        return f"{len(missing)} of {len(wanted)} objects, one is {min(missing)[0]}"
    if left := bucketful.removed & found.keys():
        return f"the removal of {len(left)} objects, one is {min(left)}"
    dead = {
        (key, etag)
        for key, etag in lake.query("SELECT key, etag FROM meta.feeder_failures WHERE resolved_at IS NULL")
    }
    if unburied := {key for key in bucketful.broken if (key, bucketful.etags[key]) not in dead}:
        return f"dead letters of {unburied}"
    return models_behind(lake, bucketful.defined.models)


def models_behind(lake: Lake, models: Sequence[Model]) -> str:
    """Says which models have not run since what they read changed; empty if all are fresh."""
    ran = {model for (model,) in lake.query("SELECT DISTINCT model FROM meta.transform_cursors")}
    if never := {model.name for model in models} - ran:
        return f"models that never ran: {sorted(never)}"
    behind = lake.query(
        "SELECT model FROM meta.transform_cursors JOIN meta.feeder_cursors AS moved"
        " ON input = 'staging.stg_' || source || '__' || stream WHERE moved.files > 0"
        " AND (transform_cursors.snapshot_id IS NULL OR transform_cursors.snapshot_id < moved.snapshot_id)"
    )
    return f"fresh models: {sorted(set(behind))}" if behind else ""


def dead_letters(tenant: Tenant) -> list[dict[str, object]]:
    """What was announced on `<ns>.dead.>` so far."""

    async def read() -> list[dict[str, object]]:
        client = await nats.connect(
            tenant.endpoints.nats_url, user=tenant.nats_user, password=tenant.nats_password
        )
        try:
            js = client.jetstream()
            info = await js.stream_info(f"{tenant.namespace}_dead")
            state = info.state
            found: list[dict[str, object]] = []
            for sequence in range(state.first_seq, state.last_seq + 1):
                message = await js.get_msg(f"{tenant.namespace}_dead", sequence)
                found.append(json.loads(message.data or b"{}"))
            return found
        finally:
            await client.close()

    return asyncio.run(read())
