"""What `lotus-lake transform test` does: samples of models and checks, of a lake whose models are up to date."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import typer

from consumer.cli.asking import plain
from consumer.cli.common import WRONG_ENVIRONMENT, fail
from consumer.definitions import Definitions
from consumer.election import new_instance_name
from consumer.settings import Settings
from feeders.checks import Check
from feeders.errors import StatementFailed
from feeders.lake import Lake
from feeders.models import Model
from feeders.streams import StreamId
from feeders.verify import Checked, Compared, compare, run_check


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What came out of a model or check: a result, or an error, or why it could not be tested."""

    what: Model | Check
    result: Compared | Checked | None = None
    error: str | None = None
    why_not: str | None = None

    @property
    def is_bad(self) -> bool:
        """Whether the models are wrong, or nothing can be said of them."""
        if self.result is None:
            return True
        is_error = isinstance(self.what, Model) or self.what.severity == "error"
        return is_error and self.result.rows > 0

    @property
    def verdict(self) -> str:
        """One word."""
        if self.result is None:
            return "failed" if self.error else "held back"
        return "WRONG" if self.is_bad else "warning" if self.result.rows else "ok"

    def as_json(self) -> dict[str, object]:
        """For --json."""
        return {
            "name": self.what.name,
            "kind": "model" if isinstance(self.what, Model) else "check",
            "verdict": self.verdict.lower(),
            "rows": None if self.result is None else self.result.rows,
            "keys": self.result.keys if isinstance(self.result, Compared) else None,
            "seconds": None if self.result is None else round(self.result.seconds, 3),
            "error": self.error or self.why_not,
        }

    def show(self) -> None:
        """A line, and the first rows of a check."""
        match self.result:
            case None:
                found = self.error or self.why_not or ""
            case Compared():
                found = f"{self.result.rows:,} rows differ, of {self.result.keys:,} keys"
            case Checked():
                found = f"{self.result.rows:,} rows"
        typer.echo(f"{self.verdict:<9} {self.what.name:<38} {found}")
        if isinstance(self.result, Checked) and self.result.examples:
            for row in self.result.examples:
                pairs = zip(self.result.columns, row, strict=True)
                typer.echo(f"{'':<10}{', '.join(f'{name} {plain(str(value))}' for name, value in pairs)}")


def run_one(
    lake: Lake, what: Model | Check, held_back: Mapping[str, str], *, sample: int, examples: int
) -> Tested:
    """Compares a model or runs a check."""
    tables = {what.table} if isinstance(what, Model) else what.tables
    for table in sorted(tables & held_back.keys()):
        return Tested(what=what, why_not=held_back[table])
    try:
        if isinstance(what, Model):
            return Tested(what=what, result=compare(lake, what, sample=sample, whole=True))
        return Tested(what=what, result=run_check(lake, what, examples=examples))
    except StatementFailed as error:
        return Tested(what=what, error=str(error))


@contextmanager
def up_to_date(settings: Settings, definitions: Definitions) -> Generator[tuple[Lake, dict[str, str]]]:
    """Opens the lake at a snapshot in which the models have all that landed: the newest, or that of their last run.

    Yields it, and the tables of those models that are behind even there, with the reason: an error held them back,
    or they have not run since their file changed.
    """
    config = replace(settings.lake(new_instance_name("d")), may_create=False)
    lake = Lake(config)
    try:
        [(newest,)] = lake.query("SELECT id FROM lakehouse.current_snapshot()")
        [(last_run,)] = lake.query("SELECT max(snapshot_id) FROM meta.transform_cursors")
        if last_run is None:
            fail("the models never ran", WRONG_ENVIRONMENT, hint="`lotus-lake run` runs them after a load")
        lake.close()
        lake = Lake(replace(config, at_snapshot=int(newest)))
        if behind := held_back(lake, definitions):
            lake.close()
            lake = Lake(replace(config, at_snapshot=int(last_run)))
            behind = held_back(lake, definitions)
        yield lake, behind
    finally:
        lake.close()


def held_back(lake: Lake, definitions: Definitions) -> dict[str, str]:
    """The tables of the models that are not up to date in the lake's snapshot, and why."""
    tables = {stream.id: stream.qualified_table for stream in definitions.streams}
    moved = {
        tables.get(StreamId(source=source, stream=stream)): int(snapshot)
        for source, stream, snapshot in lake.query(
            "SELECT source, stream, snapshot_id FROM meta.feeder_cursors"
        )
    }
    cursors = {
        (model, table): (-1 if snapshot is None else int(snapshot), sql_hash, error)
        for model, table, snapshot, sql_hash, error in lake.query(
            "SELECT model, input, snapshot_id, model_hash, error FROM meta.transform_cursors"
        )
    }
    found: dict[str, str] = {}
    for model in definitions.models:
        if (why := _why_behind(model, cursors, moved, found)) is not None:
            found[model.table] = why
    return found


def _why_behind(
    model: Model,
    cursors: Mapping[tuple[str, str], tuple[int, str, str | None]],
    moved: Mapping[str | None, int],
    above: Mapping[str, str],
) -> str | None:
    for each in model.inputs:
        snapshot, sql_hash, error = cursors.get((model.name, each.table), (-1, "", None))
        if error is not None:
            return f"{model.name} is held back by an error: {error}"
        if sql_hash != model.sql_hash:
            return f"{model.name} has not run since its file changed: restart the service with this project"
        if moved.get(each.table, -1) > snapshot:
            return f"{model.name} has not run since {each.table} changed"
        if each.table in above:
            return above[each.table]
    return None
