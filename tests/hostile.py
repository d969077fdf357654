"""Parquet files that no writer makes: a small writer of footers, page headers and pages, any of which may lie."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from feeders.arrow import pa

PLAIN, RLE_DICTIONARY, DELTA_BYTE_ARRAY = 0, 8, 7
INT32, INT64, BYTE_ARRAY = 1, 2, 6
UNCOMPRESSED, ZSTD = 0, 6


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def zigzag(value: int) -> bytes:
    return varint((value << 1) ^ (value >> 63))


def numbers(kind: int, **fields: int) -> bytes:
    """A struct of numbers: `numbers(5, f1=0, f3=7)` has fields 1 and 3."""
    out, last = b"", 0
    for name, value in fields.items():
        number = int(name[1:])
        out += bytes([(number - last) << 4 | kind]) + zigzag(value)
        last = number
    return out


def element(
    name: str,
    *,
    children: int | None = None,
    leaf: bool = False,
    repetition: int = 1,
    physical: int = INT64,
    converted: int | None = None,
) -> bytes:
    encoded = name.encode()
    text = b"\x15" + zigzag(physical) if leaf else b""
    text += (b"\x25" if leaf else b"\x35") + zigzag(repetition)
    text += b"\x18" + varint(len(encoded)) + encoded
    last = 4
    if children is not None:
        text += b"\x15" + zigzag(children)
        last = 5
    if converted is not None:
        text += bytes([(6 - last) << 4 | 5]) + zigzag(converted)
    return text + b"\x00"


def struct_list(items: Sequence[bytes], claimed: int | None = None) -> bytes:
    return b"\xfc" + varint(len(items) if claimed is None else claimed) + b"".join(items)


def footer(
    elements: Sequence[bytes], *, rows: int = 0, claimed: int | None = None, groups: bytes = b"\x0c"
) -> bytes:
    schema = struct_list(elements, claimed)
    return b"\x15\x04\x19" + schema + b"\x16" + zigzag(rows) + b"\x19" + groups + b"\x00"


def framed(body: bytes, content: bytes) -> bytes:
    """A file of these bytes and this footer."""
    return b"PAR1" + body + content + len(content).to_bytes(4, "little") + b"PAR1"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: its content before compression.

    `claims` is what its header says it unpacks to, and `packed` how many bytes follow it, if that is a lie.
    """

    content: bytes
    values: int
    encoding: int = PLAIN
    dictionary: bool = False
    codec: int = UNCOMPRESSED
    claims: int | None = None
    packed: int | None = None

    def written(self) -> bytes:
        packed = pa.compress(self.content, codec="zstd", asbytes=True) if self.codec == ZSTD else self.content
        claims = len(self.content) if self.claims is None else self.claims
        if self.dictionary:
            inner = b"\x4c" + numbers(5, f1=self.values, f2=PLAIN) + b"\x00"
        else:
            inner = b"\x2c" + numbers(5, f1=self.values, f2=self.encoding, f3=3, f4=3) + b"\x00"
        kind = 2 if self.dictionary else 0
        return (
            numbers(5, f1=kind, f2=claims, f3=len(packed) if self.packed is None else self.packed)
            + inner
            + b"\x00"
            + packed
        )


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column chunk. `values`, `unpacked` and `at` are what the footer claims, if that is a lie."""

    elements: Sequence[bytes]
    pages: Sequence[Page]
    physical: int = INT64
    values: int | None = None
    unpacked: int | None = None
    at: int | None = None
    repeats: int = 1
    _written: list[bytes] = field(default_factory=list[bytes])

    def body(self) -> bytes:
        if not self._written:
            self._written.append(b"".join(page.written() for page in self.pages) * self.repeats)
        return self._written[0]

    def chunk(self, at: int) -> bytes:
        data = [page for page in self.pages if not page.dictionary]
        body = self.body()
        dictionary = next((len(page.written()) for page in self.pages if page.dictionary), 0)
        values = sum(page.values for page in data) * self.repeats if self.values is None else self.values
        unpacked = len(body) if self.unpacked is None else self.unpacked
        codec = self.pages[0].codec if self.pages else UNCOMPRESSED
        where = at if self.at is None else self.at
        metadata = numbers(5, f1=self.physical) + b"\x19\x15" + zigzag(0) + b"\x19\x18\x01c"
        metadata += b"\x15" + zigzag(codec) + b"\x16" + zigzag(values) + b"\x16" + zigzag(unpacked)
        metadata += b"\x16" + zigzag(len(body)) + b"\x26" + zigzag(where + dictionary)
        metadata += (b"\x26" + zigzag(where)) if dictionary else b""
        return b"\x26" + zigzag(at) + b"\x1c" + metadata + b"\x00\x00"


def parquet_of(columns: Sequence[Column], *, rows: int, group_rows: int | None = None) -> bytes:
    """A file of one row group. `group_rows` is what the row group claims, if not the footer's number."""
    body = b""
    chunks: list[bytes] = []
    for column in columns:
        chunks.append(column.chunk(4 + len(body)))
        body += column.body()
    group = b"\x19" + struct_list(chunks) + b"\x16" + zigzag(len(body))
    group += b"\x16" + zigzag(rows if group_rows is None else group_rows) + b"\x00"
    elements = [element("schema", children=len(columns))] + [each for c in columns for each in c.elements]
    return framed(body, footer(elements, rows=rows, groups=struct_list([group])))


def plain_longs(rows: int) -> Page:
    """A page of numbers from 0, none of them null (definition levels are one run)."""
    values = b"".join(number.to_bytes(8, "little") for number in range(rows))
    return Page(content=run(1, rows, width=1) + values, values=rows)


def run(value: int, count: int, *, width: int) -> bytes:
    """Levels of one run, with their length before them."""
    levels = varint(count << 1) + value.to_bytes((width + 7) // 8, "little")
    return len(levels).to_bytes(4, "little") + levels


def longs(name: str, rows: int) -> Column:
    """A sound column of numbers."""
    return Column(elements=[element(name, leaf=True)], pages=[plain_longs(rows)])
