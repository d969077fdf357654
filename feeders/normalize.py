"""Rewrites a drifted file: the same rows in exactly staging's columns, and `_rescued_data` for the rest.

It reads with pyarrow, which reads what DuckDB refuses or reads wrongly, in batches of bounded size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feeders.arrow import READ_ERRORS, Array, pa, pq
from feeders.convert import arrow_type, convert_fields
from feeders.matching import RESCUED_COLUMN
from feeders.parquet import BadFile, Footer, batch_rows, open_parquet, raise_bad_pages
from feeders.rescue import MAX_PATHS, Place, Rescue
from feeders.types import Struct


@dataclass(frozen=True, kw_only=True)
class Normalized:
    """A file that was rewritten. `rescued_paths` has names only, sorted, at most `MAX_PATHS`."""

    path: Path
    rows: int
    rescued_rows: int
    rescued_paths: tuple[str, ...]


def normalize(path: Path, footer: Footer, target: Struct, destination: Path) -> Normalized:
    """Write `destination` anew; whatever fails, no part of it stays.

    Raises:
        BadFile: a page can't be read, or the pages hold another number of rows than the footer claims.
        OSError: the disk, not the file.
    """
    try:
        return _rewrite(path, footer, target, destination)
    except BaseException:
        destination.unlink(missing_ok=True)
        raise


def _rewrite(path: Path, footer: Footer, target: Struct, destination: Path) -> Normalized:
    fields = [pa.field(each.name, arrow_type(each.type)) for each in target.fields]
    schema = pa.schema([*fields, pa.field(RESCUED_COLUMN, pa.string())])
    rows = rescued = 0
    patterns: set[str] = set()
    with pq.ParquetWriter(
        str(destination), schema, compression="snappy", store_schema=False, write_statistics=False
    ) as writer:
        for batch in _batches(path, footer):
            rescue = Rescue()
            named = zip((str(name) for name in batch.schema.names), batch.columns, strict=True)
            columns = convert_fields(named, target, Place(), rescue, rows=batch.num_rows)
            columns.append(rescue.column(batch.num_rows))
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            rows += batch.num_rows
            rescued += len(rescue.rows)
            patterns |= rescue.patterns
    if rows != footer.rows:
        message = f"its pages hold {rows} rows, its footer claims {footer.rows}"
        raise BadFile("corrupt", message, {"footer_rows": footer.rows, "page_rows": rows})
    return Normalized(
        path=destination, rows=rows, rescued_rows=rescued, rescued_paths=tuple(sorted(patterns)[:MAX_PATHS])
    )


def _batches(path: Path, footer: Footer) -> Iterator[Array]:
    """Read the file batch by batch: errors of reading are the file's, all others are not."""
    try:
        batches = open_parquet(path, footer).iter_batches(batch_size=batch_rows(path, footer))
    except READ_ERRORS as error:
        raise_bad_pages(path, footer, error)
    while True:
        try:
            batch = next(batches, None)
        except READ_ERRORS as error:
            raise_bad_pages(path, footer, error)
        if batch is None:
            return
        if batch.num_rows:
            yield batch
