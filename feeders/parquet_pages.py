"""The headers of a column chunk's pages: what a reader makes room for before it has read anything.

Layouts: PageHeader in parquet.thrift of https://github.com/apache/parquet-format.
"""

import re
from typing import NamedTuple

from feeders.row_groups import Chunk
from feeders.thrift import FooterSyntaxError, read_varint, skip_value

DATA = 0
DICTIONARY = 2
DATA_V2 = 3
_OTHER = -1
_HEADERS = frozenset({5, 7, 8})
_SIZE_MAX = 2**31 - 1
CHUNK_PAGES_MAX = 100_000
"""Pages without values would be work without end."""

_N = rb"\x15([\x80-\xff]{0,4}[\x00-\x7f])"
_SKIPPED = rb"\x15[\x80-\xff]{0,4}[\x00-\x7f]"
_USUAL = re.compile(
    rb"\x15(?:"
    + (rb"\x00" + _N + _N + rb"(?:" + _SKIPPED + rb"\x1c|\x2c)" + _N + _N + _SKIPPED * 2)
    + (rb"|\x04" + _N + _N + rb"(?:" + _SKIPPED + rb"\x3c|\x4c)" + _N + _N + rb"[\x11\x12]?")
    + (rb"|\x06" + _N + _N + rb"(?:" + _SKIPPED + rb"\x4c|\x5c)" + _N + _SKIPPED + _N * 4 + rb"([\x11\x12]?)")
    + rb")"
)
"""A header as all writers write it, up to its statistics. Read by itself it takes a third of the time."""


class Page(NamedTuple):
    """One page, as its header claims it. `at` is where its bytes begin; `level_bytes` are a version 2 page's."""

    kind: int
    at: int
    packed: int
    unpacked: int
    values: int
    encoding: int
    rows: int = -1
    level_bytes: int = 0
    is_packed: bool = True

    @property
    def is_data(self) -> bool:
        """Say whether it holds values of the column."""
        return self.kind in {DATA, DATA_V2}

    @property
    def is_dictionary(self) -> bool:
        """Say whether it holds what the column's indices mean."""
        return self.kind == DICTIONARY


def begin_of(chunk: Chunk) -> int:
    """Return where a chunk's first page begins: the dictionary's, if there is one."""
    return chunk.dictionary_at if 0 < chunk.dictionary_at < chunk.data_at else chunk.data_at


def read_pages(data: bytes, chunk: Chunk) -> list[Page]:
    """Read the page headers of a chunk that lies within `data`, up to its last value.

    Raises:
        FooterSyntaxError: a header can't be read, or the pages don't make up the chunk.
    """
    pages: list[Page] = []
    at, left = begin_of(chunk), chunk.values
    end = at + chunk.packed_bytes
    while left > 0:
        try:
            page = _page(data, at)
        except IndexError:
            message = f"the header of a page at byte {at} is cut off"
            raise FooterSyntaxError(message) from None
        kind, start, packed, unpacked, values, _, _, level_bytes, _ = page
        sound = 0 <= packed <= end - start and 0 <= unpacked <= _SIZE_MAX and 0 <= values <= _SIZE_MAX
        if not sound or not 0 <= level_bytes <= packed:
            message = f"the page at byte {at} claims {packed} bytes, {unpacked} unpacked, and {values} values"
            raise FooterSyntaxError(message)
        pages.append(page)
        if len(pages) > CHUNK_PAGES_MAX:
            message = f"it has more than {CHUNK_PAGES_MAX} pages"
            raise FooterSyntaxError(message)
        at = start + packed
        if kind != DICTIONARY:
            left -= values
    if left:
        message = f"its pages hold {chunk.values - left} values, its footer claims {chunk.values}"
        raise FooterSyntaxError(message)
    return pages


def _page(data: bytes, at: int) -> Page:
    usual = _USUAL.match(data, at)
    if usual is None:
        return _any_page(data, at)
    end = usual.end()
    if data[end] == 0x1C:
        end = skip_value(data, end + 1, 12)
    if data[end] or data[end + 1]:
        return _any_page(data, at)
    kind, *numbers = _KINDS[data[at + 1]]
    unpacked, packed, values, encoding, *others = [
        text[0] >> 1 if text[0] < 0x80 and not text[0] & 1 else _number(text)
        for text in usual.group(*numbers)
    ]
    if kind != DATA_V2:
        return Page(kind, end + 2, packed, unpacked, values, encoding)
    rows, encoding, definitions, repetitions = encoding, *others
    levels = definitions + repetitions if definitions >= 0 <= repetitions else -1
    return Page(kind, end + 2, packed, unpacked, values, encoding, rows, levels, usual[16] != b"\x12")


_KINDS = {0: (DATA, 1, 2, 3, 4), 4: (DICTIONARY, 5, 6, 7, 8), 6: (DATA_V2, 9, 10, 11, 12, 13, 14, 15)}
"""By the number that stands in the header, the groups of the pattern."""


def _number(text: bytes) -> int:
    unsigned, _ = read_varint(text, 0)
    return (unsigned >> 1) ^ -(unsigned & 1)


def _any_page(data: bytes, at: int) -> Page:
    kind = unpacked = packed = -1
    headers: dict[int, dict[int, int]] = {}
    last = 0
    while (header := data[at]) != 0:
        at += 1
        if header < 0x10:
            unsigned, at = read_varint(data, at)
            last = (unsigned >> 1) ^ -(unsigned & 1)
        else:
            last += header >> 4
        element = header & 0x0F
        if element == 5 and last <= 3:
            unsigned, at = read_varint(data, at)
            number = (unsigned >> 1) ^ -(unsigned & 1)
            if last == 1:
                kind = number
            elif last == 2:
                unpacked = number
            else:
                packed = number
        elif element == 12 and last in _HEADERS:
            headers[last], at = _numbers(data, at)
        else:
            at = skip_value(data, at, element)
    at += 1
    if kind == DATA_V2:
        found = headers.get(8, {})
        return Page(
            kind,
            at,
            packed,
            unpacked,
            values=found.get(1, -1),
            encoding=found.get(4, -1),
            rows=found.get(3, -1),
            level_bytes=min(found.get(5, -1), found.get(6, -1), 0) or found.get(5, -1) + found.get(6, -1),
            is_packed=found.get(7, 1) == 1,
        )
    if kind in {DATA, DICTIONARY}:
        found = headers.get(5 if kind == DATA else 7, {})
        return Page(kind, at, packed, unpacked, values=found.get(1, -1), encoding=found.get(2, -1))
    # Readers pass over a page of another kind.
    return Page(_OTHER, at, packed, unpacked, values=0, encoding=-1)


def _numbers(data: bytes, at: int) -> tuple[dict[int, int], int]:
    """Return the numbers and booleans of a struct by field, and the place behind it."""
    found: dict[int, int] = {}
    last = 0
    while (header := data[at]) != 0:
        at += 1
        if header < 0x10:
            unsigned, at = read_varint(data, at)
            last = (unsigned >> 1) ^ -(unsigned & 1)
        else:
            last += header >> 4
        kind = header & 0x0F
        if kind == 5:
            unsigned, at = read_varint(data, at)
            found[last] = (unsigned >> 1) ^ -(unsigned & 1)
        elif kind in {1, 2}:
            found[last] = kind
        else:
            at = skip_value(data, at, kind)
    return found, at + 1
