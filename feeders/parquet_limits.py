"""What a file may ask for, and the error that says that it is bad or asks for more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from feeders.parquet_types import FileSchema

BadFileReason = Literal[
    "empty_file",
    "not_parquet",
    "truncated",
    "encrypted",
    "corrupt",
    "over_limit",
    "unsupported",
    "schema_rejected",
]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may ask for. Above any of these it is a `BadFile` with reason ``over_limit``.

    Attributes:
        max_bytes: size of the file.
        max_rows: rows, as the footer claims them.
        max_columns: leaves of the schema, nested ones included.
        max_depth: levels of structs and lists.
        max_unpacked_bytes: all values, decompressed and with dictionaries resolved; at least one byte a value.
        max_row_group_bytes: the pages of one row group, decompressed; a reader may hold them all.
        max_held_bytes: what a reader can't take in parts: a page, a dictionary, the lists of one row.
        max_row_groups: number of row groups.
        max_footer_bytes: size of the footer, which is read whole.
    """

    max_bytes: int = 4 * 1024**3
    max_rows: int = 50_000_000
    max_columns: int = 4_000
    max_depth: int = 32
    max_unpacked_bytes: int = 16 * 1024**3
    max_row_group_bytes: int = 4 * 1024**3
    max_held_bytes: int = 128 * 1024**2
    max_row_groups: int = 20_000
    max_footer_bytes: int = 16 * 1024**2


class BadFile(Exception):
    """The file can't be loaded, now or later: a dead letter.

    Attributes:
        reason: one word for counting.
        message: what was found and what was expected; no values of rows.
        evidence: sizes, counts, positions and names of columns. With ``over_limit`` also ``limit``, the field
            of `Limits`, ``allowed``, its value, and ``found``.
        schema: the file's columns, if its footer could be read.
    """

    schema: FileSchema | None = None

    def __init__(
        self, reason: BadFileReason, message: str, evidence: Mapping[str, str | int] | None = None
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason: BadFileReason = reason
        self.message = message
        self.evidence = dict(evidence or {})


LimitName = Literal[
    "max_bytes",
    "max_rows",
    "max_columns",
    "max_depth",
    "max_unpacked_bytes",
    "max_row_group_bytes",
    "max_held_bytes",
    "max_row_groups",
    "max_footer_bytes",
]


def over_limit(what: str, found: int, allowed: int, limit: LimitName) -> BadFile:
    """Return the error for a count over its limit."""
    message = f"{found} {what}, at most {allowed} are allowed"
    return BadFile("over_limit", message, {"limit": limit, "allowed": allowed, "found": found, "what": what})


def hold(what: str, found: int, limits: Limits, limit: LimitName) -> None:
    """Hold a claimed count against its limit.

    Raises:
        BadFile: it is negative, or over the limit.
    """
    if found < 0:
        message = f"its footer claims {found} {what}"
        raise BadFile("corrupt", message, {"what": what, "found": found})
    allowed: int = getattr(limits, limit)
    if found > allowed:
        raise over_limit(what, found, allowed, limit)
