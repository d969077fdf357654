"""How many bytes the values of one page become, worked out without making them.

Two encodings write a long value once and mean it many times: a dictionary's indices, and DELTA_BYTE_ARRAY's
shared prefixes. A page of them is decompressed and its lengths are added up.
"""

from collections.abc import Iterator
from struct import Struct

from feeders.arrow import READ_ERRORS, pa
from feeders.parquet_pages import DATA_V2, Page
from feeders.parquet_types import Leaf
from feeders.thrift import FooterSyntaxError, read_varint

_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_SIZE = Struct("<I")
_BLOCK_VALUES_MAX = 65_536


def decompress(data: bytes, page: Page, codec: int) -> bytes | None:
    """Return a page's bytes, levels included; None for Hadoop's LZ4, which only whole readers know.

    Raises:
        FooterSyntaxError: they are not what the header claims.
    """
    start = page.at + page.level_bytes
    levels, packed = bytes(data[page.at : start]), bytes(data[start : page.at + page.packed])
    if not page.is_packed or codec == 0:
        return levels + packed
    name = _CODECS.get(codec)
    if name is None:
        return None
    size = page.unpacked - page.level_bytes
    if not packed or size <= 0:
        return levels
    try:
        return levels + pa.decompress(packed, size, codec=name, asbytes=True)
    except READ_ERRORS:
        message = f"the page at byte {page.at} does not unpack to {page.unpacked} bytes"
        raise FooterSyntaxError(message) from None


def widest_entry(content: bytes, entries: int) -> int:
    """Return the length of the longest entry of a dictionary of texts or bytes.

    Raises:
        FooterSyntaxError: it has another number of entries.
    """
    end = len(content)
    if 0 < entries <= end and end % entries == 0 and content[:4] * entries == _sizes(content, end // entries):
        return end // entries - 4
    size_at = _SIZE.unpack_from
    found = widest = at = 0
    while at < end - 3:
        (size,) = size_at(content, at)
        at += size + 4
        found += 1
        if size > widest:  # noqa: PLR1730 - a call for each entry takes longer than the rest
            widest = size
    if at != end or found != entries:
        message = f"a dictionary page of {end} bytes does not hold {entries} values"
        raise FooterSyntaxError(message)
    return widest


def _sizes(content: bytes, stride: int) -> bytes:
    """Return the sizes of all entries, if they are alike as those of ids and links are; else nothing."""
    if stride - 4 != int.from_bytes(content[:4], "little"):
        return b""
    sizes = bytearray(len(content) // stride * 4)
    for place in range(4):
        sizes[place::4] = content[place::stride]
    return bytes(sizes)


def entry_lengths(content: bytes) -> list[int]:
    """Return the length of each entry of a dictionary that `widest_entry` has seen."""
    lengths: list[int] = []
    at = 0
    while at < len(content):
        (size,) = _SIZE.unpack_from(content, at)
        lengths.append(size)
        at += size + 4
    return lengths


def indexed_bytes(content: bytes, page: Page, leaf: Leaf, lengths: list[int]) -> int:
    """Return what the values of a page of indices take together; an index of no entry counts nothing."""
    at = _values_at(content, page, leaf)
    if at >= len(content):
        return 0
    width = content[at]
    if width > 32:
        message = f"a page's indices have {width} bits"
        raise FooterSyntaxError(message)
    total = 0
    for value, count in _runs(content, at + 1, len(content), width, page.values):
        if value < len(lengths):
            total += lengths[value] * count
    return total


def prefixed_bytes(content: bytes, page: Page, leaf: Leaf) -> int:
    """Return what the values of a DELTA_BYTE_ARRAY page take together."""
    at = _values_at(content, page, leaf)
    return max(0, len(content) - at) + (_sum_of_deltas(content, at) if at < len(content) else 0)


def rows_begun(content: bytes, page: Page, leaf: Leaf) -> int:
    """Return how many rows begin in a version 1 page of a repeated column."""
    width = leaf.repetition.bit_length()
    size = int.from_bytes(content[:4], "little")
    runs = _runs(content, 4, min(len(content), 4 + size), width, page.values)
    return sum(count for value, count in runs if value == 0)


def _values_at(content: bytes, page: Page, leaf: Leaf) -> int:
    if page.kind == DATA_V2:
        return page.level_bytes
    at = 0
    for levels in (leaf.repetition, leaf.definition):
        if levels:
            at += 4 + int.from_bytes(content[at : at + 4], "little")
    return at


def _runs(content: bytes, at: int, end: int, width: int, most: int) -> Iterator[tuple[int, int]]:
    """Read the hybrid of runs and packed values, at most so many, as (value, count)."""
    size = (width + 7) // 8
    mask = (1 << width) - 1
    left = most
    while at < end and left > 0:
        header, at = _varint(content, at)
        if header & 1:
            count = min((header >> 1) * 8, left)
            packed = content[at : min(end, at + (header >> 1) * width)]
            at += (header >> 1) * width
            yield from _packed(packed, width, mask, count, counted=True)
        else:
            count = min(header >> 1, left)
            yield int.from_bytes(content[at : at + size], "little") & mask, count
            at += size
        left -= count


def _packed(
    packed: bytes, width: int, mask: int, count: int, *, counted: bool = False
) -> Iterator[tuple[int, int]]:
    """Unpack values in groups of eight; `counted` gives equal ones together, in any order."""
    if width == 1 and counted:
        ones = int.from_bytes(packed, "little") & ((1 << count) - 1)
        yield 1, ones.bit_count()
        yield 0, count - ones.bit_count()
        return
    if width == 0:
        yield 0, count
        return
    for start in range(0, len(packed), width):
        eight = int.from_bytes(packed[start : start + width], "little")
        for _ in range(min(8, count)):
            yield eight & mask, 1
            eight >>= width
        count -= 8


def _sum_of_deltas(content: bytes, at: int) -> int:
    """Add up the lengths that DELTA_BINARY_PACKED numbers are: none is negative, or longer than the page."""
    block, at = _varint(content, at)
    parts, at = _varint(content, at)
    count, at = _varint(content, at)
    first, at = _varint(content, at)
    if not (0 < parts <= block <= _BLOCK_VALUES_MAX and block % (parts * 8) == 0):
        message = f"a page of deltas in blocks of {block} values, {parts} parts each"
        raise FooterSyntaxError(message)
    size = block // parts
    value = _length((first >> 1) ^ -(first & 1), content)
    total, left = value if count else 0, count - 1
    while left > 0:
        least, at = _varint(content, at)
        step = (least >> 1) ^ -(least & 1)
        widths = content[at : at + parts]
        at += parts
        for width in widths:
            number = min(size, left)
            if number <= 0:
                break
            packed = content[at : at + size * width // 8]
            at += len(packed)
            if width == 0:
                total += number * value + step * number * (number + 1) // 2
                value = _length(value + step * number, content)
            else:
                for delta, _ in _packed(packed, width, (1 << width) - 1, number):
                    value = _length(value + step + delta, content)
                    total += value
            left -= number
        if len(widths) < parts:
            message = "a page of deltas is cut off"
            raise FooterSyntaxError(message)
    return total


def _length(value: int, content: bytes) -> int:
    if not 0 <= value <= len(content):
        message = f"a value shares {value} bytes with the one before it, in a page of {len(content)}"
        raise FooterSyntaxError(message)
    return value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    try:
        return read_varint(content, at)
    except IndexError:
        message = f"a page of {len(content)} bytes ends in the middle of a number"
        raise FooterSyntaxError(message) from None
