"""What reading a file takes, from the headers of its pages: bytes of all its values, and bytes held at once.

A footer's sums say nothing of a long text that stands in a dictionary once and in millions of rows, of lists
that are one run of nothing, or of pages larger than claimed. Here each page has a bound: what it claims to
unpack to, and what its values can be at most. Only where the bounds are too high are values counted.
"""

import mmap
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from feeders.parquet_columns import Column, ColumnReader, Tally, tally
from feeders.parquet_limits import BadFile, Limits, hold
from feeders.parquet_types import FileSchema, Leaf
from feeders.row_groups import RowGroup
from feeders.thrift import FooterSyntaxError

PAGES_MAX = 1_000_000
LISTS_LOOKED_AT_BYTES = 16 * 1024**2
"""From here on it is worth the time to know where rows begin."""


def hold_pages(path: Path, schema: FileSchema, row_groups: Sequence[RowGroup], limits: Limits) -> int:
    """Hold a file's pages against the limits; return a bound of what all values take.

    Raises:
        BadFile: the headers of pages can't be read or contradict the footer; or a limit is exceeded.
    """
    total = pages = 0
    share = limits.max_unpacked_bytes // max(1, len(row_groups))
    with _mapped(path) as data:
        reader = ColumnReader(data)
        for number, group in enumerate(row_groups):
            found = _tallies(data, schema.columns, group, number)
            pages += sum(len(each.pages) for each in found)
            if pages > PAGES_MAX:
                message = f"it has more than {PAGES_MAX} pages"
                raise BadFile("corrupt", message, {"row_group": number, "pages": pages})
            total += _hold_group(found, reader, _Group(schema.columns, group, number), limits, share)
        hold("unpacked bytes", total, limits, "max_unpacked_bytes")
    return total


def _tallies(data: bytes, leaves: Sequence[Leaf], group: RowGroup, number: int) -> list[Tally]:
    found: list[Tally] = []
    for leaf, chunk in zip(leaves, group.chunks, strict=True):
        try:
            found.append(tally(data, leaf, chunk, rows=group.rows))
        except FooterSyntaxError as error:
            raise _bad_pages(number, leaf, error) from None
    return found


def _bad_pages(row_group: int, leaf: Leaf, error: FooterSyntaxError) -> BadFile:
    name = ".".join(leaf.path)
    message = f"the pages of column {name} of row group {row_group} can't be read: {error}"
    return BadFile("corrupt", message, {"row_group": row_group, "column": name})


@dataclass(frozen=True)
class _Group:
    """A row group whose pages are kept and looked into."""

    leaves: Sequence[Leaf]
    group: RowGroup
    number: int

    def columns(self, reader: ColumnReader, found: Sequence[Tally]) -> list[Column]:
        columns = zip(self.leaves, self.group.chunks, found, strict=True)
        return [reader.column(leaf, chunk, self.group.rows, each.pages) for leaf, chunk, each in columns]

    def odd_columns(self, reader: ColumnReader, found: Sequence[Tally]) -> list[Column]:
        """Return those columns that are more than their pages."""
        columns = zip(self.leaves, self.group.chunks, found, strict=True)
        return [
            reader.column(leaf, chunk, self.group.rows, each.pages)
            for leaf, chunk, each in columns
            if each.vector_bytes or each.list_bytes
        ]

    def look(self, step: Callable[[Column], None], column: Column) -> None:
        try:
            step(column)
        except FooterSyntaxError as error:
            raise _bad_pages(self.number, column.leaf, error) from None

    def look_closer(
        self,
        columns: Sequence[Column],
        measure: Callable[[Column], int],
        steps: Sequence[Callable[[Column], None]],
        enough: int,
    ) -> int:
        """Take steps at columns, the highest bounds first, until the sum of the bounds is low enough."""
        bounds = [measure(column) for column in columns]
        for step in steps:
            for position in sorted(range(len(bounds)), key=bounds.__getitem__, reverse=True):
                if sum(bounds) <= enough or not bounds[position]:
                    break
                self.look(step, columns[position])
                bounds[position] = measure(columns[position])
        return sum(bounds)


def _hold_group(
    found: Sequence[Tally], reader: ColumnReader, group: _Group, limits: Limits, share: int
) -> int:
    """Hold one row group against the limits, and look into its pages if their headers leave it open."""
    most = limits.max_held_bytes
    hold("bytes in a page", max((each.largest_page for each in found), default=0), limits, "max_held_bytes")
    page_bytes = sum(each.page_bytes for each in found)
    hold("unpacked bytes in a row group", page_bytes, limits, "max_row_group_bytes")
    size = sum(each.size for each in found)
    held, listed = sum(each.vector_bytes for each in found), sum(each.list_bytes for each in found)
    if size <= share and held <= most and listed <= most:
        return size
    columns = group.odd_columns(reader, found)
    plain = size - sum(column.size for column in columns)
    steps = (reader.find_widest, reader.count)
    group.look_closer(columns, lambda column: column.size if column.is_amplified else 0, steps, share)
    held = group.look_closer(columns, lambda column: column.vector_bytes, steps, most)
    hold("bytes of texts in the rows of a batch", held, limits, "max_held_bytes")
    listed = group.look_closer(columns, lambda column: column.list_bytes, (*steps, reader.find_rows), most)
    hold("bytes of lists in a row", listed, limits, "max_held_bytes")
    return plain + sum(column.size for column in columns)


def row_bytes(path: Path, schema: FileSchema, row_groups: Sequence[RowGroup]) -> float:
    """Return about what a row takes where rows are largest, of a file that `hold_pages` let through.

    Raises:
        BadFile: a page can't be unpacked.
    """
    largest = 0.0
    with _mapped(path) as data:
        reader = ColumnReader(data)
        for number, row_group in enumerate(row_groups):
            group = _Group(schema.columns, row_group, number)
            columns = group.columns(reader, _tallies(data, schema.columns, row_group, number))
            for column in columns:
                if column.is_amplified:
                    group.look(reader.count, column)
                if column.list_bytes > LISTS_LOOKED_AT_BYTES:
                    group.look(reader.find_rows, column)
            largest = max(largest, sum(column.row_bytes for column in columns))
    return largest


@contextmanager
def _mapped(path: Path) -> Generator[bytes]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield cast("bytes", data)  # it gives numbers and slices as bytes do
