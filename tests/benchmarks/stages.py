"""How fresh files were, and where the time went.

What the service says of itself is in its log: a `key` line for each message, a `model` line for each run of a model.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from consumer.demo import SALES_STREAMS, Put
from consumer.observer import ObjectTag
from tests.benchmarks.figures import Spread
from tests.benchmarks.watching import Sighting

STAGES = ("PUT → heard", "publish", "claim", "get", "note", "check", "writer's queue", "commit", "seen")
"""From the start of the PUT to the reader, one after the other; together they are PUT → staging, but for a few ms.

`PUT → heard` ends when the filer tail has read the record of it, `publish` when the key is in the queue, and `claim`
where the GET begins. `seen` is from the COMMIT until the reader has looked. A log line comes after its ack: that of
the first key of a commit, a few ms, is taken for part of `claim`, and is missing from `seen`.
"""
PUT = "PUT"
"""Until it is answered: not one of the stages, since the filer tells of it before that."""
TO_FCT = "staging → fct_sales"
"""Of the files that sales are made of, by the reader's clock."""
MODELS = "models, a run"
"""The statements of one run; by hand with its BEGIN and COMMIT."""


@dataclass(frozen=True, kw_only=True)
class KeyLine:
    """The canonical line of one message: when it was written, on the wall clock in seconds, and its stages."""

    at: float
    seconds: Mapping[str, float]

    @property
    def committed_at(self) -> float:
        """When the writer's COMMIT ended, if ack and hand-over took no time."""
        return self.at - self.seconds["write"] + self.seconds["queue"] + self.seconds["commit"]


@dataclass(frozen=True, kw_only=True)
class ConsumerLog:
    """What the log says of the keys that were loaded, and the seconds that each run of the models took."""

    keys: Mapping[ObjectTag, KeyLine]
    model_runs_s: tuple[float, ...]


def read_log(log: Path) -> ConsumerLog:
    """Reads a consumer's log. Models that ran together wrote their lines together, each model once."""
    keys: dict[ObjectTag, KeyLine] = {}
    runs: list[dict[str, float]] = []
    last_model_at = 0.0
    for line in _lines(log):
        match line:
            case {"event": "key", "outcome": "loaded", "key": str(key), "etag": str(etag), "at": str(at)}:
                keys[key, etag] = KeyLine(at=_time(at), seconds=_seconds(line))
            case {"event": "model", "model": str(model), "seconds": float(seconds), "at": str(at)}:
                if not runs or model in runs[-1] or _time(at) - last_model_at > _TOGETHER_S:
                    runs.append({})
                runs[-1][model] = seconds
                last_model_at = _time(at)
            case _:
                pass
    return ConsumerLog(keys=keys, model_runs_s=tuple(sum(run.values()) for run in runs))


_TOGETHER_S = 0.02


def stages_of(
    puts: Iterable[Put], sightings: Mapping[ObjectTag, Sighting], keys: Mapping[ObjectTag, KeyLine]
) -> Mapping[str, list[float]]:
    """The seconds of each stage, of all puts that were seen."""
    found: dict[str, list[float]] = {name: [] for name in STAGES}
    puts = [put for put in puts if put.tag in sightings and put.tag in keys]
    committed_at: dict[tuple[float, float], float] = {}
    for put in puts:
        # Of the keys of one commit, the one whose line came first waited least for its ack.
        commit = _commit_of(keys[put.tag], sightings[put.tag])
        committed_at[commit] = min(keys[put.tag].committed_at, committed_at.get(commit, math.inf))
    for put in puts:
        line, sighting = keys[put.tag], sightings[put.tag]
        at = committed_at[_commit_of(line, sighting)]
        found["seen"].append(sighting.in_staging - at)
        found["writer's queue"].append(line.seconds["queue"])
        for name in ("get", "note", "check", "commit"):
            found[name].append(line.seconds[name])
        if sighting.queued is not None:
            got_from = at - sum(line.seconds[name] for name in ("get", "note", "check", "queue", "commit"))
            found["PUT → heard"].append(sighting.queued.made_at - put.started_at)
            found["publish"].append(sighting.queued.published_at - sighting.queued.made_at)
            found["claim"].append(got_from - sighting.queued.published_at)
    return found


def _commit_of(line: KeyLine, sighting: Sighting) -> tuple[float, float]:
    """Tells commits apart: keys that took the same commit, to a tenth of a millisecond, and were seen by one look."""
    return sighting.in_staging, line.seconds["commit"]


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """From the start of the PUT until the reader saw it, and where the time went. Milliseconds."""

    staging: Spread
    fct_sales: Spread
    stages: Mapping[str, Spread]


def freshness(
    puts: Sequence[Put],
    sightings: Mapping[ObjectTag, Sighting],
    stages: Mapping[str, Sequence[float]],
    *,
    ended_at: float,
) -> Freshness:
    """The percentiles of what was seen; what was not counts as if it had been at the end."""
    staging: list[float] = []
    fct_sales: list[float] = []
    between: list[float] = []
    for put in puts:
        seen = sightings.get(put.tag)
        staging.append((seen.in_staging if seen else ended_at) - put.started_at)
        if put.stream in SALES_STREAMS:
            in_fct = seen.in_fct if seen else None
            fct_sales.append((in_fct or ended_at) - put.started_at)
            if seen is not None and in_fct is not None:
                between.append(in_fct - seen.in_staging)
    return Freshness(
        staging=Spread.of(staging),
        fct_sales=Spread.of(fct_sales),
        stages={name: Spread.of(seconds) for name, seconds in {**stages, TO_FCT: between}.items()},
    )


def mean(*parts: Freshness) -> Freshness:
    """The mean of two samples, percentile by percentile: pooled, a median would fall between a small and a big lake."""
    return Freshness(
        staging=Spread.mean([each.staging for each in parts]),
        fct_sales=Spread.mean([each.fct_sales for each in parts]),
        stages={name: Spread.mean([each.stages[name] for each in parts]) for name in parts[0].stages},
    )


def _lines(log: Path) -> Iterator[Mapping[str, object]]:
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            yield cast("dict[str, object]", json.loads(line))


def _time(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _seconds(line: Mapping[str, object]) -> dict[str, float]:
    return {
        name.removesuffix("_s"): value
        for name, value in line.items()
        if name.endswith("_s") and isinstance(value, float)
    }
