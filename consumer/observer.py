"""An independent reader: sees, as a dashboard would, when a landed object's rows become visible.

It opens the lake on its own, reads only, and looks whenever the catalog has a new snapshot. An object is in staging
when a snapshot holds its ledger row, which is committed with its rows; it is in fct_sales when that model's
cursor has reached such a snapshot. What staging really holds is counted at the end, row by row.
"""

import threading
import time
from dataclasses import dataclass

import psycopg

from feeders.catalog import newest_snapshot
from feeders.lake import Lake, LakeConfig, LakeError, StatementFailed

POLL_S = 0.01

ObjectTag = tuple[str, str]
"""(key, etag)"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """When, on the wall clock in seconds, an object version was first visible in staging, and in fct_sales."""

    in_staging: float
    in_fct: float | None


class Observer:
    """Watches a lake from a thread of its own, from `start` until `close`."""

    def __init__(self, config: LakeConfig) -> None:
        self._config = config
        self._staging: dict[ObjectTag, tuple[float, int]] = {}
        self._fct: list[tuple[float, int]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def close(self) -> None:
        """Stops looking."""
        self._stop.set()
        self._thread.join()

    def seen(self, tag: ObjectTag) -> Seen | None:
        """Says when an object version became visible; None as long as it is not."""
        with self._lock:
            found = self._staging.get(tag)
            if found is None:
                return None
            at, snapshot = found
            reached = next((when for when, upto in self._fct if upto >= snapshot), None)
            return Seen(in_staging=at, in_fct=reached)

    def loaded(self) -> set[ObjectTag]:
        """All object versions that were ever seen in staging."""
        with self._lock:
            return set(self._staging)

    def staged(self) -> dict[ObjectTag, float]:
        """When, on the wall clock in seconds, each object version was first visible in staging."""
        with self._lock:
            return {tag: at for tag, (at, _) in self._staging.items()}

    def _run(self) -> None:
        lake: Lake | None = None
        last = -1
        try:
            with self._config.catalog.connect(application="lotus-lake:observer") as catalog:
                while not self._stop.wait(POLL_S):
                    snapshot = newest_snapshot(catalog, self._config.catalog)
                    if snapshot <= last:
                        continue
                    try:
                        lake = lake or Lake(self._config)
                        self._look(lake, last, snapshot)
                        last = snapshot
                    except StatementFailed:
                        # The tables are not there yet, or an expiry took a snapshot that the feed begins with.
                        last = -1
        except (LakeError, psycopg.Error) as error:
            self.error = error
        finally:
            if lake is not None:
                lake.close()

    def _look(self, lake: Lake, last: int, snapshot: int) -> None:
        # The feed costs the same however long the ledger is; a scan would count its own growth as the service's.
        rows = (
            lake.query("SELECT key, etag, snapshot_id FROM meta.feeder_files")
            if last < 0
            else lake.query(
                "SELECT key, etag, snapshot_id"
                " FROM ducklake_table_insertions('lakehouse', 'meta', 'feeder_files', ?, ?)",
                (last + 1, snapshot),
            )
        )
        fct = lake.query("SELECT min(snapshot_id) FROM meta.transform_cursors WHERE model = 'fct_sales'")
        now = time.time()
        with self._lock:
            for key, etag, loaded_in in rows:
                self._staging.setdefault((key, etag), (now, loaded_in))
            if fct[0][0] is not None and (not self._fct or self._fct[-1][1] < fct[0][0]):
                self._fct.append((now, fct[0][0]))
