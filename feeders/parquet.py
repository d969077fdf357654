"""Checks one spooled Parquet file before anything else reads it: its footer against its bytes and the limits.

Nothing here reads a page but `verify_pages`. What a footer claims is held against the file's size and the
limits before it is followed, so that a hostile one is a `BadFile` and neither a crash nor a flood of memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NoReturn

from feeders.arrow import READ_ERRORS, ParquetFile, pa, pq
from feeders.parquet_bounds import hold_pages, row_bytes
from feeders.parquet_limits import BadFile, BadFileReason, Limits, hold, over_limit
from feeders.parquet_pages import begin_of
from feeders.parquet_schema import FooterLimitError, ParsedFooter, parse_footer
from feeders.parquet_types import FileSchema
from feeders.row_groups import CODECS, Chunk, RowGroup, Statistics, parse_statistics
from feeders.thrift import FooterSyntaxError

__all__ = [
    "BadFile",
    "BadFileReason",
    "Footer",
    "Limits",
    "batch_rows",
    "inspect",
    "open_parquet",
    "raise_bad_pages",
    "verify_pages",
]

_MAGIC = b"PAR1"
_ENCRYPTED = b"PARE"
_TRAILER_BYTES = 8
_TAIL_BYTES = 64 * 1024
_SMALLEST_BYTES = 12
_BATCH_BYTES = 16 * 1024 * 1024
_BATCH_ROWS = 8192
_OBJECT_BYTES = 64
"""What a value takes for a moment where it is converted by itself."""
_READ_BUFFER_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Footer:
    """A footer that was checked.

    Attributes:
        schema: the file's columns.
        rows: the sum of its row groups' rows.
        row_groups: what each holds.
        unpacked_bytes: a bound of what all values take, whatever the footer claims.
        codecs: names of compression codecs, as in `CODECS`.
        created_by: the writer's name for itself.
        content: the footer's bytes, for statistics.
    """

    schema: FileSchema
    rows: int
    row_groups: tuple[RowGroup, ...] = field(repr=False)
    size_bytes: int
    unpacked_bytes: int
    codecs: frozenset[str]
    created_by: str
    content: bytes = field(repr=False)

    def statistics(self, chunk: Chunk) -> Statistics | None:
        """Return what a chunk of this footer says of its values."""
        try:
            return parse_statistics(self.content, chunk.statistics_at) if chunk.statistics_at else None
        except FooterSyntaxError:
            return None


def inspect(path: Path, limits: Limits) -> Footer:
    """Check a local file's frame and footer.

    Raises:
        BadFile: it is no Parquet file, is cut off, contradicts itself, or is over a limit.
        OSError: the disk, not the file.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        tail = _tail(file, size, limits)
    footer = tail[:-_TRAILER_BYTES]
    try:
        parsed = parse_footer(
            footer,
            max_columns=limits.max_columns,
            max_depth=limits.max_depth,
            max_row_groups=limits.max_row_groups,
        )
    except FooterLimitError as error:
        raise over_limit(error.what, error.found, error.allowed, error.limit) from None
    except FooterSyntaxError as error:
        message = f"its footer can't be read: {error}"
        raise BadFile("corrupt", message, {"footer_bytes": len(footer)}) from None
    try:
        hold("rows", parsed.rows, limits, "max_rows")
        checked = _footer(footer, parsed, size, limits)
        return replace(checked, unpacked_bytes=hold_pages(path, parsed.schema, parsed.row_groups, limits))
    except BadFile as error:
        error.schema = parsed.schema
        raise


def _tail(file: BinaryIO, size: int, limits: Limits) -> bytes:
    """Read the footer with its trailer, once the frame is known to be sound."""
    if size == 0:
        message = "the file is empty, 0 bytes"
        raise BadFile("empty_file", message, {"size_bytes": 0})
    hold("bytes", size, limits, "max_bytes")
    evidence = {"size_bytes": size}
    start = file.read(4)
    if start == _ENCRYPTED:
        raise _encrypted(evidence)
    if start != _MAGIC:
        message = "the file does not start with PAR1"
        raise BadFile("not_parquet", message, evidence)
    if size < _SMALLEST_BYTES:
        message = f"the file ends after {size} bytes, before any footer"
        raise BadFile("truncated", message, evidence)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    magic = tail[-4:]
    if magic == _ENCRYPTED:
        raise _encrypted(evidence)
    if magic != _MAGIC:
        message = "the file starts with PAR1 and does not end with it: it is cut off"
        raise BadFile("truncated", message, evidence)
    length = int.from_bytes(tail[-_TRAILER_BYTES:-4], "little")
    evidence |= {"footer_bytes": length}
    if not 0 < length <= size - _SMALLEST_BYTES:
        message = f"its footer claims {length} bytes, the file has room for {size - _SMALLEST_BYTES}"
        raise BadFile("corrupt", message, evidence)
    hold("bytes of footer", length, limits, "max_footer_bytes")
    if length + _TRAILER_BYTES > len(tail):
        file.seek(size - length - _TRAILER_BYTES)
        tail = file.read(length + _TRAILER_BYTES)
    return tail[-(length + _TRAILER_BYTES) :]


def _encrypted(evidence: Mapping[str, str | int]) -> BadFile:
    return BadFile("encrypted", "the file or its footer is encrypted: there is no key for it", evidence)


def _footer(content: bytes, parsed: ParsedFooter, size: int, limits: Limits) -> Footer:
    """Hold the row groups against the file's size and the limits."""
    data_end = size - len(content) - _TRAILER_BYTES
    rows = unpacked = 0
    codecs: set[int] = set()
    places: list[tuple[int, int, int, int]] = []
    for number, group in enumerate(parsed.row_groups):
        group_bytes = 0
        for position, chunk in enumerate(group.chunks):
            begin = begin_of(chunk)
            fits = 0 <= begin <= data_end and 0 <= chunk.packed_bytes <= size - begin
            if not fits or chunk.unpacked_bytes < 0 or chunk.values < 0 or chunk.elsewhere:
                raise _bad_chunk(chunk, number, position, data_end)
            if chunk.values:
                places.append((begin, begin + chunk.packed_bytes, number, position))
            group_bytes += chunk.unpacked_bytes
            codecs.add(chunk.codec)
        hold("unpacked bytes in a row group", group_bytes, limits, "max_row_group_bytes")
        hold("rows in a row group", group.rows, limits, "max_rows")
        unpacked += group_bytes
        rows += group.rows
    hold("unpacked bytes", unpacked, limits, "max_unpacked_bytes")
    if rows != parsed.rows:
        message = f"its footer claims {parsed.rows} rows, its row groups together {rows}"
        raise BadFile("corrupt", message, {"footer_rows": parsed.rows, "row_group_rows": rows})
    places.sort()
    for (_, end, _, _), (begin, _, number, position) in pairwise(places):
        if begin < end:
            message = f"column {position} of row group {number} begins at {begin}, inside another that ends at {end}"
            raise BadFile("corrupt", message, {"row_group": number, "column_number": position})
    return Footer(
        schema=parsed.schema,
        rows=rows,
        row_groups=parsed.row_groups,
        size_bytes=size,
        unpacked_bytes=unpacked,
        codecs=frozenset(map(_codec, codecs)),
        created_by=parsed.created_by,
        content=content,
    )


def _codec(number: int) -> str:
    name = CODECS[number] if 0 <= number < len(CODECS) else f"number {number}"
    if name not in CODECS or name == "LZO":
        message = f"it is compressed with codec {name}, which no reader here has"
        raise BadFile("unsupported", message, {"codec": name})
    return name


def _bad_chunk(chunk: Chunk, row_group: int, column: int, data_end: int) -> BadFile:
    evidence = {
        "row_group": row_group,
        "column_number": column,
        "offset": chunk.data_at,
        "data_end": data_end,
    }
    if chunk.elsewhere:
        return BadFile("unsupported", "a column chunk is encrypted or lies in another file", evidence)
    message = (
        f"column {column} of row group {row_group} claims {chunk.packed_bytes} bytes at {chunk.data_at}, "
        f"the data end at {data_end}"
    )
    return BadFile("corrupt", message, evidence | {"chunk_bytes": chunk.packed_bytes})


def _reason_of(error: Exception) -> BadFileReason:
    match error:
        case pa.ArrowNotImplementedError():
            return "unsupported"
        case MemoryError():
            return "over_limit"
        case _:
            return "corrupt"


def open_parquet(path: Path, footer: Footer) -> ParquetFile:
    """Open a checked file for reading it in batches: page checksums are verified, INT96 is in microseconds.

    Nanoseconds, pyarrow's own choice for INT96, would wrap before 1677 and after 2262.
    """
    return pq.ParquetFile(
        str(path),
        # No list is longer than these: a false count must not become an allocation.
        thrift_container_size_limit=max(len(footer.row_groups), footer.schema.elements, 10_000),
        thrift_string_size_limit=len(footer.content),
        buffer_size=_READ_BUFFER_BYTES,
        page_checksum_verification=True,
        coerce_int96_timestamp_unit="us",
    )


def batch_rows(path: Path, footer: Footer) -> int:
    """Return how many rows to read at a time so that a batch stays in the order of 16 MB.

    Raises:
        BadFile: a page can't be unpacked.
    """
    bytes_per_row = row_bytes(path, footer.schema, footer.row_groups) + footer.schema.leaves * _OBJECT_BYTES
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / bytes_per_row)))


def verify_pages(path: Path, footer: Footer) -> None:
    """Read every page of a checked file, and keep nothing.

    Raises:
        BadFile: with the first row group and column that can't be read.
        OSError: the disk, not the file.
    """
    try:
        file = open_parquet(path, footer)
        rows = sum(batch.num_rows for batch in file.iter_batches(batch_size=batch_rows(path, footer)))
    except READ_ERRORS as error:
        raise_bad_pages(path, footer, error)
    if rows != footer.rows:
        message = f"its pages hold {rows} rows, its footer claims {footer.rows}"
        raise BadFile("corrupt", message, {"footer_rows": footer.rows, "page_rows": rows})


def raise_bad_pages(path: Path, footer: Footer, cause: Exception) -> NoReturn:
    """Find the first column that can't be read, after reading a whole file failed with `cause`.

    Reads each page twice at most: row groups first, however many, and the columns only of one that is bad.

    Raises:
        BadFile: always, but for
        OSError: the disk, not the file.
    """
    if isinstance(cause, OSError) and cause.errno is not None:
        raise cause
    message = f"pyarrow can't open it ({type(cause).__name__})"
    try:
        file = open_parquet(path, footer)
        names = _leaf_names(file)
    except READ_ERRORS as error:
        raise BadFile(_reason_of(error), message, {"footer_bytes": len(footer.content)}) from None
    rows = batch_rows(path, footer)
    for number in range(len(footer.row_groups)):
        if _read_error(file, rows, number, None) is None:
            continue
        for name in names:
            if (error := _read_error(file, rows, number, name)) is not None:
                kind = type(error).__name__
                message = f"column {name} of row group {number} can't be read ({kind}); the footer is sound"
                raise BadFile(_reason_of(error), message, {"row_group": number, "column": name}) from error
    message = f"pyarrow can't read its rows ({type(cause).__name__}), though each column by itself"
    raise BadFile("corrupt", message, {"rows": footer.rows}) from None


def _read_error(file: ParquetFile, rows: int, row_group: int, column: str | None) -> Exception | None:
    """Read a row group, or one column of it, and keep nothing; return what is wrong with the file. Raises OSError."""
    columns = None if column is None else [column]
    try:
        for _ in file.iter_batches(
            batch_size=rows, row_groups=[row_group], columns=columns, use_threads=False
        ):
            pass
    except READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return error
    return None


def _leaf_names(file: ParquetFile) -> list[str]:
    schema = file.schema
    return [str(schema.column(position).path) for position in range(len(schema))]
