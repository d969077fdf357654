"""Decides how a file's columns become a staging table's: exact, widened, or with values to rescue.

DuckDB reads the spooled file itself where that is known to be right and to lose nothing, which the footer
decides. Everything else (unknown columns, types that may not fit, and what DuckDB 1.5.5 refuses or reads
wrongly) goes through `normalize`, and DuckDB reads the file that it wrote.

What a footer can't show, DuckDB finds when it reads: a text that is not UTF-8 (in a column annotated STRING
too), malformed text for a JSON column, a broken page. Its INSERT then fails as a whole. A file that failed
alone is planned again with ``careful=True``, which reads every value: a plan that loads, or `BadFile`.
"""

from dataclasses import dataclass
from pathlib import Path

from feeders.drift import Drift, drifts_of
from feeders.matching import (
    SOURCE,
    Extra,
    Guard,
    Kind,
    match_schema,
    normalized_projection,
    target_of_table,
)
from feeders.normalize import normalize
from feeders.parquet import Footer
from feeders.streams import Column

__all__ = ["SOURCE", "Extra", "Kind", "LoadPlan", "plan_load"]

MAX_REASONS = 20

_NORMALIZED = "normalized"


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How the writer loads one file.

    Attributes:
        path: what DuckDB reads: the spooled file, or the normalized one beside it.
        kind: exact; widen, other types that lose nothing; rescue, something belongs in `_rescued_data`.
        projection: (staging column, expression over `SOURCE`), of all but year, month, day and _source_file.
        rows: rows in the file; with 0 there is nothing to read.
        rescued_rows: rows with something in `_rescued_data`.
        rescued_paths: where, names without indices and values, at most 50.
        extras: columns and fields that the table lacks, as the file's schema has them.
        drifts: what of the file is not as the table has it: at most 50 columns and fields.
        reasons: why the file was normalized: names and types only, at most 20. Empty if it was not.
        signature: files of one stream with the same signature can be read by one read_parquet.
        normalized: `path` is a file that this plan made, and whoever runs the plan removes it.
    """

    path: Path
    kind: Kind
    projection: tuple[tuple[str, str], ...]
    rows: int
    rescued_rows: int
    rescued_paths: tuple[str, ...]
    extras: tuple[Extra, ...]
    drifts: tuple[Drift, ...]
    reasons: tuple[str, ...]
    signature: str
    normalized: bool


def normalized_name(path: Path) -> str:
    """The name of the file that a normalized copy of `path` gets, in whichever folder."""
    return f"{path.name}.normalized.parquet"


def plan_load(
    path: Path, footer: Footer, columns: tuple[Column, ...], *, work_dir: Path, careful: bool = False
) -> LoadPlan:
    """Plan the load of a checked file; may write a file of `normalized_name` into `work_dir`.

    Args:
        path: the spooled file.
        footer: what `inspect` returned for it.
        columns: the staging table's; those that the loader fills itself are left out here.
        work_dir: where a normalized file goes.
        careful: read every value, as after a failed INSERT of this file alone.

    Raises:
        BadFile: a page can't be read (only where pages are read).
        OSError: the disk, not the file.
    """
    match = match_schema(footer.schema, columns)
    reasons = [*match.reasons, *_codec_reasons(footer), *_guard_reasons(footer, match.guards)]
    if careful:
        reasons.append("planned again after it failed to load")
    if not reasons or footer.rows == 0:
        return LoadPlan(
            path=path,
            kind=match.kind,
            projection=match.projection,
            rows=footer.rows,
            rescued_rows=0,
            rescued_paths=(),
            extras=match.extras,
            drifts=drifts_of(match, ()),
            reasons=(),
            signature=match.signature,
            normalized=False,
        )
    result = normalize(path, footer, target_of_table(columns), work_dir / normalized_name(path))
    projection = normalized_projection(columns)
    return LoadPlan(
        path=result.path,
        kind="rescue" if result.rescued_rows else match.kind,
        projection=projection,
        rows=result.rows,
        rescued_rows=result.rescued_rows,
        rescued_paths=result.rescued_paths,
        extras=match.extras,
        drifts=drifts_of(match, result.rescued_paths),
        reasons=tuple(reasons[:MAX_REASONS]),
        # Files that were rewritten before and after the table got a column are not of one shape.
        signature=f"{_NORMALIZED} {hash(projection):x}",
        normalized=True,
    )


def _codec_reasons(footer: Footer) -> list[str]:
    return ["codec: Hadoop's LZ4, which DuckDB refuses"] if "LZ4" in footer.codecs else []


def _guard_reasons(footer: Footer, guards: tuple[Guard, ...]) -> list[str]:
    return [guard.reason for guard in guards if not _within(footer, guard)]


def _within(footer: Footer, guard: Guard) -> bool:
    for group in footer.row_groups:
        chunk = group.chunks[guard.leaf]
        found = footer.statistics(chunk)
        if found is None:
            return False
        if found.nulls == chunk.values:
            continue
        if found.low is None or found.high is None:
            return False
        low, high = (int.from_bytes(each, "little", signed=guard.signed) for each in (found.low, found.high))
        if not len(found.low) == len(found.high) == 8 or not guard.low <= low <= high <= guard.high:
            return False
    return True
