"""A bucket and its lake as they have to be, in memory: whatever was done to the objects, and whatever broke meanwhile.

The model knows what the bucket holds and what staging may show. Of most keys that is one thing. Where the bucket
does not decide (a deleted object of a stream that keeps rows, or a broken one over a whole one) it depends on what was
read in time: then it is one of those versions, and from the next look on it is the one that was found.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from feeders.arrow import pq
from feeders.lake import Lake
from feeders.streams import Stream
from tests.bucketful import BROKEN_REASON
from tests.exact import Entry, assert_models, read_ledger
from tests.lakes import Definitions, one
from tests.landed import models_behind

Etag = str


@dataclass(kw_only=True)
class Thing:
    """One key: what the bucket holds, and what staging may show.

    Attributes:
        stream: whose key it is.
        now: the etag of the object that is there; None if there is none.
        possible: etags of which staging may show the rows; None stands for no rows.
        bodies: every whole body that was put, by etag.
        broken: the etags of what was put and is no Parquet.
    """

    stream: Stream
    now: Etag | None = None
    possible: set[Etag | None] = field(default_factory=lambda: {None})
    bodies: dict[Etag, bytes] = field(default_factory=dict[str, bytes])
    broken: set[Etag] = field(default_factory=set[str])

    def put(self, etag: Etag, body: bytes) -> None:
        """A whole object was put."""
        self.now = etag
        self.bodies[etag] = body
        self.possible.add(etag)

    def put_broken(self, etag: Etag) -> None:
        """What is no Parquet was put."""
        self.now = etag
        self.broken.add(etag)

    def delete(self) -> None:
        """The object was deleted."""
        self.now = None
        if self.removes:
            self.possible.add(None)

    @property
    def removes(self) -> bool:
        """Whether the rows go with the object."""
        return self.stream.on_delete == "remove"

    @property
    def is_broken(self) -> bool:
        """Whether what is there is no Parquet."""
        return self.now in self.broken

    def wanted(self) -> set[Etag | None]:
        """What staging may show once nothing is left to do."""
        if self.now is not None and not self.is_broken:
            return {self.now}
        if self.now is None and self.removes:
            return {None}
        return self.possible

    def raw_ids(self, etag: Etag) -> list[str]:
        """The raw ids of a version's rows."""
        table = pq.read_table(io.BytesIO(self.bodies[etag]), columns=["_airbyte_raw_id"])
        return [str(each) for each in table.column(0).to_pylist()]


class World:
    """All keys, and how a lake is held against them."""

    def __init__(self, defined: Definitions) -> None:
        self._defined = defined
        self.things: dict[str, Thing] = {}

    def thing(self, key: str) -> Thing:
        """What is known of a key."""
        if key not in self.things:
            route = self._defined.streams.route(key)
            assert route is not None, key
            self.things[key] = Thing(stream=route.stream)
        return self.things[key]

    def lacks(self, lake: Lake) -> str:
        """Says what the lake does not show yet, or shows still; empty if it is as it has to be."""
        ledger = read_ledger(lake)
        for key, thing in self.things.items():
            if shown(ledger.get(key, ())) not in thing.wanted():
                return f"{key}: {ledger.get(key)} for {thing.wanted()}"
        dead = open_letters(lake)
        for key, thing in self.things.items():
            if thing.is_broken and dead.get(key) != (thing.now, BROKEN_REASON):
                return f"the dead letter of {key}"
        return models_behind(lake, self._defined.models)

    def assert_shown(self, lake: Lake) -> None:
        """Asserts that the lake shows it exactly, and agrees with itself; what was undecided is known then."""
        ledger = read_ledger(lake)
        for key, thing in self.things.items():
            history = ledger.pop(key, [])
            self._assert_history(key, thing, history)
            found = shown(history)
            assert found in thing.wanted(), f"{key}: {history} for {thing.wanted()}"
            thing.possible = {found}
        assert not ledger, f"loaded, but never put: {sorted(ledger)}"
        for stream in self._defined.streams:
            self._assert_stream(lake, stream)
        self._assert_letters(lake)
        assert_models(lake, self._defined.models)

    def _assert_history(self, key: str, thing: Thing, history: Sequence[Entry]) -> None:
        present: Etag | None = None
        for entry in history:
            match entry.action:
                case "loaded":
                    assert present is None, f"{key} was loaded twice: {history}"
                case "replaced":
                    assert present not in (None, entry.etag), f"{key} replaced nothing: {history}"
                case "removed":
                    assert present is not None, f"{key} was removed twice: {history}"
                    assert thing.removes, f"{key}: its stream keeps rows: {history}"
                case _:
                    assert entry.action == "replayed", f"{key}: {history}"
            present = None if entry.action == "removed" else entry.etag
            if present is not None:
                assert entry.rows == len(thing.raw_ids(present)), f"{key}: {entry}"

    def _assert_stream(self, lake: Lake, stream: Stream) -> None:
        """Staging has the rows of what is shown, each once; the cursor counts what the ledger has."""
        things = {key: thing for key, thing in self.things.items() if thing.stream.id == stream.id}
        wanted: Counter[tuple[str, str]] = Counter()
        for key, thing in things.items():
            [etag] = thing.possible
            if etag is not None:
                wanted.update((key, each) for each in thing.raw_ids(etag))
        found = Counter(lake.query(f"SELECT _source_file, _airbyte_raw_id FROM staging.{stream.table}"))
        assert found == wanted, f"{stream.id}: {found - wanted} too many, {wanted - found} missing"
        of_stream = "WHERE source = ? AND stream = ?"
        name = (stream.id.source, stream.id.stream)
        counted = one(
            lake,
            "SELECT count(*) FILTER (action <> 'removed'), coalesce(sum(rows) FILTER (action <> 'removed'), 0)"
            f" FROM meta.feeder_files {of_stream}",
            name,
        )
        cursor = f"SELECT cursor_path, files, rows FROM meta.feeder_cursors {of_stream}"
        path, files, rows = one(lake, cursor, name)
        assert (files, rows) == counted, f"{stream.id}: the cursor counts {files, rows}, the ledger {counted}"
        loaded = {
            key for (key,) in lake.query(f"SELECT DISTINCT key FROM meta.feeder_files {of_stream}", name)
        }
        assert path == max(loaded, key=str.encode, default=""), f"{stream.id}: the cursor is at {path}"

    def _assert_letters(self, lake: Lake) -> None:
        """A broken object has an open dead letter; one that is gone may have one; nothing else has."""
        dead = open_letters(lake)
        for key, thing in self.things.items():
            if thing.is_broken:
                assert dead.pop(key, None) == (thing.now, BROKEN_REASON), f"{key} has no dead letter"
            elif thing.now is None and key in dead:
                etag, reason = dead.pop(key)
                assert etag in thing.broken, f"{key}: {etag}"
                assert reason == BROKEN_REASON, f"{key}: {reason}"
        assert not dead, f"dead letters of whole objects: {dead}"


def shown(history: Sequence[Entry]) -> Etag | None:
    """Which version the ledger says is in staging."""
    return history[-1].etag if history and history[-1].action != "removed" else None


def open_letters(lake: Lake) -> dict[str, tuple[str, str]]:
    """The open dead letters: etag and reason by key. More than one for a key fails."""
    rows = lake.query("SELECT key, etag, reason FROM meta.feeder_failures WHERE resolved_at IS NULL")
    found = {key: (etag, reason) for key, etag, reason in rows}
    assert len(found) == len(rows), f"more than one open dead letter of a key: {rows}"
    return found
