"""One column chunk as its page headers have it: bounds of what its values take, and how to lower them.

`tally` is for every chunk of every file and makes nothing but sums; `Column` is for those few whose sums are
too high to be believed, and keeps the pages.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from feeders.parquet_pages import DATA, DICTIONARY, Page, read_pages
from feeders.parquet_types import Leaf
from feeders.parquet_values import (
    decompress,
    entry_lengths,
    indexed_bytes,
    prefixed_bytes,
    rows_begun,
    widest_entry,
)
from feeders.row_groups import Chunk
from feeders.thrift import FooterSyntaxError

VECTOR_ROWS = 2048
"""DuckDB makes the values of so many rows at once, and a dictionary's don't count as its memory."""
LIST_ITEM_BYTES = 32
"""What a value in a list takes in a reader, whatever it is: levels, offset and place."""
COUNTED_VALUES_MAX = 20_000_000
"""So many values of a file are counted one by one, which takes seconds; then the bounds have to do."""

_BYTE_ARRAY = 6
_BY_INDEX = frozenset({2, 8})
_BY_PREFIX = 7
_LITTLE_BYTES = 16


class Tally(NamedTuple):
    """The bounds of one chunk.

    Attributes:
        pages: their headers.
        page_bytes: the pages, decompressed.
        largest_page: the largest of them, a dictionary included.
        size: all values.
        vector_bytes: the values of `VECTOR_ROWS` rows, if a dictionary or a prefix can make them long.
        list_bytes: all values, if they are in lists.
    """

    pages: list[Page]
    page_bytes: int
    largest_page: int
    size: int
    vector_bytes: int
    list_bytes: int


def tally(data: bytes, leaf: Leaf, chunk: Chunk, *, rows: int) -> Tally:
    """Add up the bounds of a chunk's pages.

    Raises:
        FooterSyntaxError: a header can't be read, or the pages don't make up the chunk.
    """
    if chunk.values < rows or (chunk.values > rows and not leaf.repetition):
        message = f"a row group of {rows} rows has {chunk.values} values in column {'.'.join(leaf.path)}"
        raise FooterSyntaxError(message)
    pages = read_pages(data, chunk)
    page_bytes = largest = size = widest = 0
    dictionary: Page | None = None
    for page in pages:
        unpacked = page.unpacked
        page_bytes += unpacked
        largest = max(largest, unpacked)
        if page.kind == DICTIONARY:
            dictionary = page
        else:
            _, bytes_of_page, widest_of_page = bound(page, leaf, dictionary)
            size += bytes_of_page
            widest = max(widest, widest_of_page)
    if leaf.repetition:
        return Tally(pages, page_bytes, largest, size, 0, size + chunk.values * LIST_ITEM_BYTES)
    return Tally(pages, page_bytes, largest, size, min(size, min(VECTOR_ROWS, rows) * widest), 0)


class Span(NamedTuple):
    """One page of values. `size` is a bound of their bytes, `widest` of the longest of a dictionary or prefix."""

    page: Page
    size: int
    widest: int


def bound(page: Page, leaf: Leaf, dictionary: Page | None) -> Span:
    """Bound a page of values by its header and its dictionary's."""
    plain = page.unpacked if page.unpacked > page.values else page.values
    if page.encoding in _BY_INDEX and dictionary is not None:
        if leaf.physical == _BYTE_ARRAY:
            widest = dictionary.unpacked
        else:
            widest = dictionary.unpacked // max(1, dictionary.values)
        if widest > _LITTLE_BYTES:
            return Span(page, plain + page.values * widest, widest)
    if page.encoding == _BY_PREFIX:
        return Span(page, page.values * page.unpacked, page.unpacked)
    return Span(page, plain, 0)


@dataclass(kw_only=True)
class Column:
    """One column chunk: its pages and what they are bounded by.

    `begun` has the number of rows that begin in each page, `content` the dictionary, once someone looked.
    """

    leaf: Leaf
    codec: int
    rows: int
    dictionary: Page | None = None
    spans: list[Span] = field(default_factory=list[Span])
    begun: list[int] | None = None
    content: bytes | None = None

    @property
    def size(self) -> int:
        """All values."""
        return sum(span.size for span in self.spans)

    @property
    def is_amplified(self) -> bool:
        """Say whether its values can be more than its pages: of a dictionary, or such that share a prefix."""
        return any(span.widest for span in self.spans)

    @property
    def vector_bytes(self) -> int:
        """The values of `VECTOR_ROWS` rows, if a dictionary or a prefix can make them long."""
        return max(_windows(self.spans), default=0) if not self.leaf.repetition else 0

    @property
    def list_bytes(self) -> int:
        """The values of the longest row's lists; of all rows as long as nobody has looked where they begin."""
        if not self.leaf.repetition:
            return 0
        sizes = self._item_bytes()
        return sum(sizes) if self.begun is None else _longest_row(sizes, self.begun)

    @property
    def row_bytes(self) -> float:
        """A row's share of the page, or of the rows of a vector, where it is greatest."""
        if not self.leaf.repetition:
            densest = max((span.size / max(1, span.page.values) for span in self.spans), default=0.0)
            return max(densest, self.vector_bytes / VECTOR_ROWS)
        sizes = self._item_bytes()
        if self.begun is None:
            return sum(sizes) / max(1, self.rows)
        return max((size / max(1, rows) for size, rows in zip(sizes, self.begun, strict=True)), default=0.0)

    def _item_bytes(self) -> list[int]:
        return [span.size + span.page.values * LIST_ITEM_BYTES for span in self.spans]


def _windows(spans: Sequence[Span]) -> Iterator[int]:
    """Bound each run of `VECTOR_ROWS` values that ends in a page."""
    begin = held = values = 0
    for end, span in enumerate(spans):
        held += span.size
        values += span.page.values
        # The run may end with this page's first value; a page is left behind when the others make up the run.
        while begin < end and values - spans[begin].page.values - span.page.values >= VECTOR_ROWS - 1:
            held -= spans[begin].size
            values -= spans[begin].page.values
            begin += 1
        widest = max(each.widest for each in spans[begin : end + 1])
        yield min(held, VECTOR_ROWS * widest)


def _longest_row(sizes: Sequence[int], begun: Sequence[int]) -> int:
    longest = held = 0
    for size, rows in zip(sizes, begun, strict=True):
        held += size
        longest = max(longest, held)
        if rows:
            held = size
    return longest


class ColumnReader:
    """Reads columns out of a mapped file; stops looking at values when it has seen enough of them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = COUNTED_VALUES_MAX

    def column(self, leaf: Leaf, chunk: Chunk, rows: int, pages: Iterable[Page]) -> Column:
        """Return a chunk with its pages, whose values can be looked at."""
        column = Column(leaf=leaf, codec=chunk.codec, rows=rows)
        for page in pages:
            if page.kind == DICTIONARY:
                column.dictionary = page
            else:
                column.spans.append(bound(page, leaf, column.dictionary))
        return column

    def find_widest(self, column: Column) -> None:
        """Replace what a dictionary's values may be at most by the longest of them."""
        page = column.dictionary
        if column.content is not None or page is None or column.leaf.physical != _BYTE_ARRAY:
            return
        column.content = self._content(page, column)
        if column.content is None:
            return
        widest = widest_entry(column.content, page.values)
        for number, span in enumerate(column.spans):
            if span.widest and span.page.encoding in _BY_INDEX:
                size = max(span.page.unpacked, span.page.values) + span.page.values * widest
                column.spans[number] = Span(span.page, size, widest)

    def count(self, column: Column) -> None:
        """Replace the bounds of a column's pages by what their values are, where the file lets us."""
        self.find_widest(column)
        lengths = None if column.content is None else entry_lengths(column.content)
        for number, span in enumerate(column.spans):
            page = span.page
            if not span.widest or (content := self._content(page, column)) is None:
                continue
            if page.encoding == _BY_PREFIX:
                size = prefixed_bytes(content, page, column.leaf)
            elif lengths is not None:
                size = page.unpacked + indexed_bytes(content, page, column.leaf, lengths)
            else:
                continue
            column.spans[number] = span._replace(size=size)

    def find_rows(self, column: Column) -> None:
        """Find out how many rows begin in each page of a repeated column."""
        begun: list[int] = []
        for span in column.spans if column.leaf.repetition else ():
            page = span.page
            content = self._content(page, column) if page.kind == DATA else b""
            if content is None:
                return
            begun.append(rows_begun(content, page, column.leaf) if page.kind == DATA else page.rows)
        column.begun = begun

    def _content(self, page: Page, column: Column) -> bytes | None:
        """Unpack a page whose values are to be looked at, unless that would be too much work."""
        self._left -= page.values
        return decompress(self._data, page, column.codec) if self._left >= 0 else None
