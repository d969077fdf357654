"""The row groups of a Parquet footer: where each column chunk lies, and its statistics when someone asks.

Not by way of pyarrow, whose accessors end the whole process for some damaged footers (C++ exceptions without a
catch: an unknown codec, histograms of a wrong size), and which makes 500 bytes of a chunk that takes one.
"""

from dataclasses import dataclass
from typing import NamedTuple

from feeders.thrift import FooterSyntaxError, ThriftReader, read_varint, skip_value

CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")
"""Names by number. LZ4 is Hadoop's framing, which DuckDB refuses."""


class Chunk(NamedTuple):
    """One column chunk, as the footer claims it. `statistics_at` is a place in the footer, or 0."""

    codec: int
    values: int
    unpacked_bytes: int
    packed_bytes: int
    data_at: int
    dictionary_at: int
    statistics_at: int
    elsewhere: bool


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Its rows, as claimed, and one chunk for each leaf of the schema."""

    rows: int
    chunks: list[Chunk]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a chunk says of its values, in PLAIN encoding; min and max are None where it says nothing sound."""

    nulls: int | None
    low: bytes | None
    high: bytes | None


def parse_row_groups(reader: ThriftReader, kind: int, count: int, leaves: int) -> tuple[RowGroup, ...]:
    """Parse the row groups, from behind the head of their list.

    Raises:
        FooterSyntaxError: they are none, or lack a chunk for some column.
    """
    _expect("row group", kind, 12)
    try:
        groups = tuple(_row_group(reader, leaves) for _ in range(count))
    except IndexError:
        message = f"it ends after {len(reader.data)} bytes, in the middle of a row group"
        raise FooterSyntaxError(message) from None
    return groups


def parse_rest(reader: ThriftReader, last: int) -> str:
    """Walk what is behind the row groups; return the name of the writer."""
    created_by = ""
    while True:
        kind, last = reader.field(last)
        match (last, kind):
            case (_, 0):
                return created_by
            case (6, 8):
                created_by = reader.binary().decode("utf-8", "replace")
            case (8, 12):
                message = "its columns are encrypted"
                raise FooterSyntaxError(message)
            case _:
                reader.skip(kind)


def parse_statistics(data: bytes, at: int) -> Statistics:
    """Parse a chunk's statistics, which were skipped before."""
    reader = ThriftReader(data)
    reader.at = at
    found: dict[int, bytes] = {}
    nulls: int | None = None
    last = 0
    while True:
        kind, last = reader.field(last)
        match (last, kind):
            case (_, 0):
                # 1 and 2 are the old maximum and minimum, compared as nobody knows.
                return Statistics(nulls=nulls, low=found.get(6), high=found.get(5))
            case (3, 6):
                nulls = reader.signed()
            case (5 | 6, 8):
                found[last] = reader.binary()
            case _:
                reader.skip(kind)


def _row_group(reader: ThriftReader, leaves: int) -> RowGroup:
    chunks: list[Chunk] = []
    rows = -1
    last = 0
    while True:
        kind, last = reader.field(last)
        match (last, kind):
            case (_, 0):
                break
            case (1, 9):
                element, size = reader.list_header()
                _expect("column chunk", element, 12)
                for _ in range(size):
                    chunk, reader.at = _chunk(reader.data, reader.at)
                    chunks.append(chunk)
            case (3, 6):
                rows = reader.signed()
            case _:
                reader.skip(kind)
    if len(chunks) != leaves:
        message = f"a row group has {len(chunks)} column chunks, the schema {leaves} columns"
        raise FooterSyntaxError(message)
    return RowGroup(rows=rows, chunks=chunks)


def _chunk(data: bytes, at: int) -> tuple[Chunk, int]:
    start = at
    chunk: Chunk | None = None
    elsewhere = False
    last = 0
    while (header := data[at]) != 0:
        at += 1
        if header < 0x10:
            unsigned, at = read_varint(data, at)
            last = (unsigned >> 1) ^ -(unsigned & 1)
        else:
            last += header >> 4
        if last == 3 and header & 0x0F == 12:
            chunk, at = _chunk_metadata(data, at)
        else:
            # 1 is the path of another file; 8 says how the chunk is encrypted.
            elsewhere |= last in {1, 8}
            at = skip_value(data, at, header & 0x0F)
    if chunk is None:
        message = f"a column chunk without metadata at byte {start}"
        raise FooterSyntaxError(message)
    return (chunk._replace(elsewhere=True) if elsewhere else chunk), at + 1


def _chunk_metadata(data: bytes, at: int) -> tuple[Chunk, int]:
    numbers: dict[int, int] = {}
    statistics_at = last = 0
    while (header := data[at]) != 0:
        at += 1
        if header < 0x10:
            unsigned, at = read_varint(data, at)
            last = (unsigned >> 1) ^ -(unsigned & 1)
        else:
            last += header >> 4
        kind = header & 0x0F
        if kind in {5, 6}:
            unsigned, at = read_varint(data, at)
            numbers[last] = (unsigned >> 1) ^ -(unsigned & 1)
            continue
        if last == 12 and kind == 12:
            statistics_at = at
        at = skip_value(data, at, kind)
    chunk = Chunk(
        codec=numbers.get(4, -1),
        values=numbers.get(5, -1),
        unpacked_bytes=numbers.get(6, -1),
        packed_bytes=numbers.get(7, -1),
        data_at=numbers.get(9, -1),
        dictionary_at=numbers.get(11, 0),
        statistics_at=statistics_at,
        elsewhere=False,
    )
    return chunk, at + 1


def _expect(what: str, kind: int, wanted: int) -> None:
    if kind != wanted:
        message = f"a {what} of kind {kind}"
        raise FooterSyntaxError(message)
