"""What doesn't fit its column, as JSON by path: ``column``, ``column.field``, ``column[0].field``."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

from feeders.arrow import Array, ArrowType, pa, pc

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAX_PATHS = 50
"""How many distinct paths a plan names; the rows themselves have them all."""

UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)


class Place:
    """Where the values of an array stand: turns positions in it into rows and paths.

    The root is the batch of rows itself. Positions are looked up only where there is something to rescue.
    """

    def __init__(self, pattern: str = "") -> None:
        self.pattern = pattern

    def locate(self, positions: Iterable[int]) -> list[tuple[int, str]]:
        """Return the row and the path of each position."""
        return [(position, "") for position in positions]

    def field(self, name: str) -> "Place":
        """Return the place of a column or of a struct's field: one value for each of the parent's."""
        return _FieldPlace(self, name)

    def elements(self, lists: Array) -> "Place":
        """Return the place of the elements of `lists` (a ListArray), in the order of its `flatten`."""
        return _ElementPlace(self, lists)


class _FieldPlace(Place):
    def __init__(self, parent: Place, name: str) -> None:
        super().__init__(f"{parent.pattern}.{name}" if parent.pattern else name)
        self._parent = parent
        self._name = name

    def locate(self, positions: Iterable[int]) -> list[tuple[int, str]]:
        located = self._parent.locate(positions)
        return [(row, f"{path}.{self._name}" if path else self._name) for row, path in located]


class _ElementPlace(Place):
    def __init__(self, parent: Place, lists: Array) -> None:
        super().__init__(f"{parent.pattern}[]")
        self._parent = parent
        self._lists = lists
        self._owners: list[tuple[int, int]] | None = None

    def locate(self, positions: Iterable[int]) -> list[tuple[int, str]]:
        if self._owners is None:
            sizes = enumerate(pc.list_value_length(self._lists).to_pylist())
            self._owners = [(owner, index) for owner, size in sizes for index in range(size or 0)]
        wanted = [self._owners[position] for position in positions]
        located = self._parent.locate([owner for owner, _ in wanted])
        return [(row, f"{path}[{index}]") for (row, path), (_, index) in zip(located, wanted, strict=True)]


@dataclass(kw_only=True)
class Rescue:
    """What was rescued from one batch of rows. `patterns` has paths without their indices."""

    rows: dict[int, dict[str, Json]] = field(default_factory=dict[int, dict[str, Json]])
    patterns: set[str] = field(default_factory=set[str])

    def add(self, values: Array, at: Place, positions: Sequence[int] | None = None) -> None:
        """Rescue the values at these positions that are not null; without positions, all of them."""
        chosen = pc.indices_nonzero(values.is_valid()).to_pylist() if positions is None else positions
        if not chosen:
            return
        self.patterns.add(at.pattern)
        found = json_values(values.take(pa.array(chosen, pa.int64())))
        for (row, path), value in zip(at.locate(chosen), found, strict=True):
            add_unique(self.rows.setdefault(row, {}), path, value)

    def column(self, rows: int) -> Array:
        """Return the column `_rescued_data` of a batch."""
        texts = [dump_json(self.rows[row]) if row in self.rows else None for row in range(rows)]
        return pa.array(texts, pa.string())


def dump_json(value: Json) -> str:
    """Write JSON text that DuckDB's JSON type takes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def add_unique(target: dict[str, Json], name: str, value: Json) -> None:
    """Add a member; a name that is there already gets ``#2``, ``#3``: two values never become one."""
    unique = name
    number = 1
    while unique in target:
        number += 1
        unique = f"{name}#{number}"
    target[unique] = value


def json_values(values: Array) -> list[Json]:
    """Turn any array into JSON values that lose nothing: what JSON has no number or text for is a text.

    Bytes that are not UTF-8 are ``{"hex": ...}``; decimals, NaN and infinities are texts; timestamps with a
    zone end in Z.
    """
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return [str(each) for each in _uuids(values)] if kind == pa.uuid() else json_values(values.storage)
    if pa.types.is_dictionary(kind):
        return json_values(values.dictionary_decode())
    if is_bytes(kind):
        return [_bytes_value(each) for each in values.cast(_binary_of(kind)).to_pylist()]
    if pa.types.is_struct(kind):
        return _struct_values(values)
    if pa.types.is_map(kind) or is_list(kind):
        return _list_values(values)
    if pa.types.is_timestamp(kind):
        ticks = values.cast(pa.int64()).to_pylist()
        return [None if each is None else timestamp_text(each, kind.unit, kind.tz) for each in ticks]
    if pa.types.is_date32(kind):
        return [None if each is None else date_text(each) for each in values.cast(pa.int32()).to_pylist()]
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return list(values.to_pylist())
    return [_plain_value(each) for each in values.to_pylist()]


def is_bytes(kind: ArrowType) -> bool:
    """Say whether the values are texts or bytes."""
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def is_list(kind: ArrowType) -> bool:
    """Say whether the values are lists, of whichever layout; maps are not."""
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _uuids(values: Array) -> list[object]:
    return list(values.to_pylist())


def _binary_of(kind: ArrowType) -> ArrowType:
    large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    return pa.large_binary() if large else pa.binary()


def _bytes_value(value: bytes | None) -> Json:
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def _struct_values(values: Array) -> list[Json]:
    names = [str(values.type.field(index).name) for index in range(values.type.num_fields)]
    columns = [json_values(each) for each in values.flatten()]
    valid = values.is_valid().to_pylist()
    result: list[Json] = []
    for row, present in enumerate(valid):
        members: dict[str, Json] = {}
        for name, column in zip(names, columns, strict=True):
            add_unique(members, name, column[row])
        result.append(members if present else None)
    return result


def _list_values(values: Array) -> list[Json]:
    kind = values.type
    if pa.types.is_map(kind):
        keys, items = json_values(values.keys), json_values(values.items)
        elements: list[Json] = [[key, item] for key, item in zip(keys, items, strict=True)]
    else:
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            values = values.cast(pa.large_list(kind.value_type))
        elements = json_values(values.values)
    offsets = values.offsets.to_pylist()
    valid = values.is_valid().to_pylist()
    return [
        elements[offsets[row] : offsets[row + 1]] if present else None for row, present in enumerate(valid)
    ]


def _plain_value(value: object) -> Json:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Decimal():
            return format(value, "f")
        case _:
            return str(value)


def timestamp_text(ticks: int, unit: str, zone: str | None) -> str:
    """Write a timestamp as ISO text, in microseconds or nanoseconds; outside years 1 to 9999 as its ticks."""
    per_second = UNITS_PER_SECOND[unit]
    seconds, fraction = divmod(ticks, per_second)
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return f"{ticks} {unit} since 1970-01-01"
    digits = f"{fraction * (1_000_000_000 // per_second):09d}"
    digits = digits if unit == "ns" and not digits.endswith("000") else digits[:6]
    return f"{moment:%H:%M:%S}".join((f"{moment.date().isoformat()}T", f".{digits}{'Z' if zone else ''}"))


def date_text(days: int) -> str:
    """Write a date as ISO text; outside years 1 to 9999 as a number of days."""
    try:
        return (_EPOCH_DAY + timedelta(days=days)).isoformat()
    except OverflowError:
        return f"{days} days since 1970-01-01"
