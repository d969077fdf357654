"""One value into a staging column's type, or nothing: a value fits when no part of it is lost.

Text fits a number or a timestamp when it says that value exactly: ``450789469.5`` is no BIGINT. A DOUBLE
takes the nearest value of a decimal fraction, as money in it always is, but whole numbers exactly.
"""

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Context, Decimal, InvalidOperation
from functools import lru_cache
from math import isfinite
from uuid import UUID

from feeders.arrow import ArrowType, pa
from feeders.rescue import UNITS_PER_SECOND, date_text, dump_json, timestamp_text

Parse = Callable[[object], object]
"""Takes a value that is not None, returns what the column holds or None when it doesn't fit."""

TIMESTAMP_MICROS = (-9_223_372_022_400_000_000, 9_223_372_036_854_775_806)
"""The range of DuckDB's timestamps; what is next to it means infinity there."""


@dataclass(frozen=True, kw_only=True)
class Instant:
    """A timestamp of a file: Python's own has neither its range nor nanoseconds. No zone means UTC."""

    ticks: int
    unit: str
    zone: str | None


@dataclass(frozen=True, kw_only=True)
class Day:
    """A date of a file, in days since 1970-01-01."""

    days: int


class Opaque:
    """A value of a type that fits no column: its own text is made where it is rescued."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A scalar type of staging: how pyarrow writes it, and what fits it."""

    arrow: ArrowType
    parse: Parse


_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(?:\.([0-9]{1,6})0*)? ?(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DECIMAL = re.compile(r"DECIMAL\(([0-9]+),([0-9]+)\)")
_EXACT_DOUBLE = 2**53
_WIDE = Context(prec=1000)
_MICROS_A_DAY = 86_400_000_000


def integer(low: int, high: int) -> Parse:
    """Make the rule of an integer type."""

    def parse(value: object) -> int | None:
        match value:
            case bool():
                return None
            case int():
                number = value
            case float() if value.is_integer():
                number = int(value)
            case Decimal() if value == value.to_integral_value(context=_WIDE):
                number = int(value)
            case str() if _WHOLE.fullmatch(value):
                number = int(value)
            case _:
                return None
        return number if low <= number <= high else None

    return parse


def double(value: object) -> float | None:
    """Take a number, or the text of one."""
    match value:
        case bool():
            return None
        case float():
            return value
        case int():
            return _whole_double(value)
        case Decimal():
            return _nearest(value)
        case str() if _NUMBER.fullmatch(value):
            number = Decimal(value)
            whole = abs(number) > _EXACT_DOUBLE and number == number.to_integral_value(context=_WIDE)
            return _whole_double(int(number)) if whole else _nearest(number)
        case _:
            return None


def _whole_double(value: int) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if int(number) == value else None


def _nearest(value: Decimal) -> float | None:
    number = float(value)
    return number if isfinite(number) and (number != 0 or value == 0) else None


def single(value: object) -> float | None:
    """Take what a FLOAT holds exactly."""
    number = double(value)
    if number is None:
        return None
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    except OverflowError:
        return None
    return number if rounded == number or number != number else None  # noqa: PLR0124 - NaN


def boolean(value: object) -> bool | None:
    """Take a boolean, or its two English words."""
    match value:
        case bool():
            return value
        case str() if value.isascii():
            return {"true": True, "false": False}.get(value.lower())
        case _:
            return None


def text(value: object) -> str | None:
    """Take a text, or a scalar in its canonical text."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float() | UUID():
            return str(value)
        case Decimal():
            return format(value, "f")
        case Instant():
            return timestamp_text(value.ticks, value.unit, value.zone)
        case Day():
            return date_text(value.days)
        case _:
            return None


def json_text(value: object) -> str | None:
    """Take a text that is JSON, or a scalar as JSON. What Python's parser takes, DuckDB's takes."""
    match value:
        case str():
            return value if _is_json(value) else None
        case bool() | int():
            return dump_json(value)
        case float():
            return dump_json(value) if isfinite(value) else None
        case Decimal():
            return format(value, "f")
        case Instant() | Day() | UUID():
            return dump_json(text(value))
        case _:
            return None


def _is_json(value: str) -> bool:
    try:
        parsed = json.loads(value)
        if "\\u" in value:
            # Python takes half a surrogate pair, DuckDB doesn't.
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    return True


def timestamp(value: object) -> int | None:
    """Take a timestamp, a date or its ISO text: microseconds since 1970 in UTC. No zone means UTC."""
    match value:
        case Instant():
            micros, rest = divmod(value.ticks * 1_000_000, UNITS_PER_SECOND[value.unit])
        case Day():
            micros, rest = value.days * _MICROS_A_DAY, 0
        case str():
            parsed = _timestamp_of(value)
            if parsed is None:
                return None
            micros, rest = parsed, 0
        case _:
            return None
    low, high = TIMESTAMP_MICROS
    return micros if rest == 0 and low <= micros <= high else None


def _timestamp_of(value: str) -> int | None:
    match = _TIMESTAMP.fullmatch(value)
    if match is None:
        return None
    day, minutes, seconds, fraction, zone = match.groups()
    if fraction and not seconds:
        return None
    try:
        moment = datetime.fromisoformat(f"{day}T{minutes or '00:00'}{seconds or ''}{zone or 'Z'}")
        delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + int((fraction or "0").ljust(6, "0"))


def day(value: object) -> int | None:
    """Take a date, a timestamp at midnight UTC, or the text of a date: days since 1970."""
    match value:
        case Day():
            return value.days
        case Instant():
            days, rest = divmod(value.ticks, UNITS_PER_SECOND[value.unit] * 86_400)
            return None if rest else days
        case str() if _DATE.fullmatch(value):
            try:
                return (date.fromisoformat(value) - date(1970, 1, 1)).days
            except ValueError:
                return None
        case _:
            return None


def uuid_text(value: object) -> str | None:
    """Take a UUID, or the text of one."""
    match value:
        case UUID():
            return str(value)
        case str() if _UUID.fullmatch(value):
            return value
        case _:
            return None


def blob(value: object) -> bytes | None:
    """Take bytes, or a text's."""
    match value:
        case bytes():
            return value
        case str():
            return value.encode("utf-8")
        case _:
            return None


def decimal(precision: int, scale: int) -> Parse:
    """Make the rule of a DECIMAL."""
    step = Decimal(1).scaleb(-scale)
    limit = Decimal(10) ** (precision - scale)

    def parse(value: object) -> Decimal | None:
        match value:
            case bool():
                return None
            case int() | Decimal():
                number = Decimal(value)
            case float() if isfinite(value):
                number = Decimal(repr(value))
            case str() if _NUMBER.fullmatch(value):
                number = Decimal(value)
            case _:
                return None
        try:
            rounded = number.quantize(step, context=_WIDE)
        except InvalidOperation:
            return None
        return rounded if rounded == number and abs(number) < limit else None

    return parse


def _signed(bits: int) -> Parse:
    return integer(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_TARGETS: Mapping[str, Target] = {
    "VARCHAR": Target(arrow=pa.string(), parse=text),
    "JSON": Target(arrow=pa.string(), parse=json_text),
    "BOOLEAN": Target(arrow=pa.bool_(), parse=boolean),
    "TINYINT": Target(arrow=pa.int8(), parse=_signed(8)),
    "SMALLINT": Target(arrow=pa.int16(), parse=_signed(16)),
    "INTEGER": Target(arrow=pa.int32(), parse=_signed(32)),
    "BIGINT": Target(arrow=pa.int64(), parse=_signed(64)),
    "UTINYINT": Target(arrow=pa.uint8(), parse=integer(0, 2**8 - 1)),
    "USMALLINT": Target(arrow=pa.uint16(), parse=integer(0, 2**16 - 1)),
    "UINTEGER": Target(arrow=pa.uint32(), parse=integer(0, 2**32 - 1)),
    "UBIGINT": Target(arrow=pa.uint64(), parse=integer(0, 2**64 - 1)),
    "FLOAT": Target(arrow=pa.float32(), parse=single),
    "DOUBLE": Target(arrow=pa.float64(), parse=double),
    "DATE": Target(arrow=pa.date32(), parse=day),
    "TIMESTAMP": Target(arrow=pa.timestamp("us"), parse=timestamp),
    "TIMESTAMP WITH TIME ZONE": Target(arrow=pa.timestamp("us", tz="UTC"), parse=timestamp),
    "UUID": Target(arrow=pa.string(), parse=uuid_text),
    "BLOB": Target(arrow=pa.binary(), parse=blob),
}


@lru_cache(maxsize=256)
def target_of(name: str) -> Target:
    """Return the rule of a type by DuckDB's name for it. Without a rule nothing fits: all is rescued."""
    if (found := _TARGETS.get(name)) is not None:
        return found
    if (match := _DECIMAL.fullmatch(name)) is not None:
        precision, scale = int(match[1]), int(match[2])
        return Target(arrow=pa.decimal128(precision, scale), parse=decimal(precision, scale))
    return Target(arrow=pa.string(), parse=lambda _: None)
