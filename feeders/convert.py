"""Whole columns of a file into staging's types. What fits nowhere goes to `Rescue`; nothing disappears.

Columns and fields are matched by name without case, the first of twins wins. A column is converted at once
where pyarrow's own cast is known to be exact, and value by value only where that cast refuses.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import assert_never

from feeders.arrow import Array, ArrowType, pa, pc
from feeders.rescue import Place, Rescue, dump_json, is_bytes, is_list, json_values
from feeders.scalars import TIMESTAMP_MICROS, Day, Instant, Opaque, target_of
from feeders.types import DuckType, List, Map, Scalar, Struct, fold


@lru_cache(maxsize=1024)
def arrow_type(target: DuckType) -> ArrowType:
    """Return the type that a normalized file has for a staging type."""
    match target:
        case Scalar():
            return target_of(target.name).arrow
        case Struct():
            return pa.struct([(each.name, arrow_type(each.type)) for each in target.fields])
        case List():
            return pa.list_(arrow_type(target.element))
        case Map():
            return pa.string()
        case _:
            assert_never(target)


def convert(values: Array, target: DuckType, at: Place, rescue: Rescue) -> Array:
    """Convert an array into `arrow_type(target)`, null where a value doesn't fit."""
    match target:
        case Struct() if pa.types.is_struct(values.type):
            names = [str(values.type.field(index).name) for index in range(values.type.num_fields)]
            # flatten() and not field(): below a null struct there may be anything.
            named = zip(names, values.flatten(), strict=True)
            columns = convert_fields(named, target, at, rescue, rows=len(values))
            fields = list(arrow_type(target))
            return pa.StructArray.from_arrays(columns, fields=fields, mask=values.is_null())
        case List() if is_list(values.type):
            lists = _as_list(values)
            elements = convert(lists.flatten(), target.element, at.elements(lists), rescue)
            return _rebuild(lists, elements, arrow_type(target))
        case Scalar():
            converted, misfits = convert_scalars(values, target.name)
            rescue.add(values, at, misfits)
            return converted
        case Struct() | List() | Map():
            rescue.add(values, at)
            return pa.nulls(len(values), arrow_type(target))
        case _:
            assert_never(target)


def convert_fields(
    columns: Iterable[tuple[str, Array]], target: Struct, at: Place, rescue: Rescue, *, rows: int
) -> list[Array]:
    """Convert the fields of a struct, or the columns of a batch: one array for each field of the target."""
    found: dict[str, Array] = {}
    for name, column in columns:
        field = target.get(name)
        if field is None or fold(name) in found:
            rescue.add(column, at.field(name))
        else:
            found[fold(name)] = convert(column, field.type, at.field(name), rescue)
    return [
        found[fold(each.name)] if fold(each.name) in found else pa.nulls(rows, arrow_type(each.type))
        for each in target.fields
    ]


def _as_list(values: Array) -> Array:
    kind = values.type
    return values if pa.types.is_list(kind) else values.cast(pa.list_(kind.value_field))


def _rebuild(lists: Array, elements: Array, kind: ArrowType) -> Array:
    """Put converted elements back into the shape of their lists, whatever offsets those had."""
    sizes = pc.fill_null(pc.list_value_length(lists), 0)
    ends = pc.cumulative_sum(sizes).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, elements, type=kind, mask=lists.is_null())


def convert_scalars(values: Array, name: str) -> tuple[Array, list[int]]:
    """Convert into the scalar type of that name; also return the positions of what doesn't fit."""
    composite = pa.types.is_struct(values.type) or pa.types.is_map(values.type) or is_list(values.type)
    if name == "JSON" and composite:
        texts = [None if each is None else dump_json(each) for each in json_values(values)]
        return pa.array(texts, pa.string()), []
    kind = values.type
    if pa.types.is_dictionary(kind):
        return convert_scalars(values.dictionary_decode(), name)
    if isinstance(kind, pa.BaseExtensionType) and kind != pa.uuid():
        return convert_scalars(values.storage, name)
    cast = _exact_cast(kind, name)
    if cast is not None:
        try:
            return cast(values), []
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass  # Some value does not fit: find it below.
    return _one_by_one(values, name)


def _one_by_one(values: Array, name: str) -> tuple[Array, list[int]]:
    target = target_of(name)
    converted: list[object] = []
    misfits: list[int] = []
    for position, value in enumerate(_python_values(values)):
        fitting = None if value is None else target.parse(value)
        if value is not None and fitting is None:
            misfits.append(position)
        converted.append(fitting)
    if pa.types.is_timestamp(target.arrow):
        return pa.array(converted, pa.int64()).cast(target.arrow), misfits
    if pa.types.is_date32(target.arrow):
        return pa.array(converted, pa.int32()).cast(target.arrow), misfits
    return pa.array(converted, target.arrow), misfits


def _python_values(values: Array) -> list[object]:
    """Give the values that `scalars` knows; none of these conversions can fail on a value."""
    kind = values.type
    types = pa.types
    if is_bytes(kind):
        large = types.is_large_string(kind) or types.is_large_binary(kind)
        raw = values.cast(pa.large_binary() if large else pa.binary()).to_pylist()
        return [None if each is None else _text_or_bytes(each) for each in raw]
    if types.is_timestamp(kind):
        ticks = values.cast(pa.int64()).to_pylist()
        return [None if each is None else Instant(ticks=each, unit=kind.unit, zone=kind.tz) for each in ticks]
    if types.is_date32(kind):
        days = values.cast(pa.int32()).to_pylist()
        return [None if each is None else Day(days=each) for each in days]
    known = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)
    if known or types.is_decimal(kind) or kind == pa.uuid():
        return list(values.to_pylist())
    return [Opaque() if each else None for each in values.is_valid().to_pylist()]


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _exact_cast(kind: ArrowType, name: str) -> Callable[[Array], Array] | None:
    """Return a cast that either is exact for every value or raises, for a source's and a target's type."""
    types = pa.types
    target = target_of(name).arrow
    if name == "VARCHAR":
        if is_bytes(kind):
            return _text_cast
        return _plain_cast(target) if types.is_integer(kind) or types.is_boolean(kind) else None
    if name == "DOUBLE" and types.is_decimal(kind):
        return _nearest_cast
    if types.is_integer(target) and (
        types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    ):
        return _plain_cast(target)
    if name == "DOUBLE" and (types.is_integer(kind) or types.is_floating(kind)):
        return _plain_cast(target)
    if types.is_timestamp(target) and (types.is_timestamp(kind) or types.is_date32(kind)):
        return _timestamp_cast(target, kind)
    return _unchanged if kind == target and name not in {"JSON", "UUID"} else None


def _plain_cast(target: ArrowType) -> Callable[[Array], Array]:
    return lambda values: values.cast(target)


def _unchanged(values: Array) -> Array:
    return values


def _text_cast(values: Array) -> Array:
    """Check UTF-8: pyarrow does when it casts from binary, and not when it reads."""
    large = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    return values.cast(pa.large_binary() if large else pa.binary()).cast(pa.string())


def _nearest_cast(values: Array) -> Array:
    """By way of text: a cast from the number itself is off in the last digit for some amounts."""
    return values.cast(pa.string()).cast(pa.float64())


def _timestamp_cast(target: ArrowType, kind: ArrowType) -> Callable[[Array], Array]:
    zone = kind.tz if pa.types.is_timestamp(kind) else None

    def cast(values: Array) -> Array:
        micros = values.cast(pa.timestamp("us", tz=zone)).cast(pa.int64())
        low, high = TIMESTAMP_MICROS
        found = pc.min_max(micros).as_py()
        if found["min"] is not None and not low <= found["min"] <= found["max"] <= high:
            raise pa.ArrowInvalid("outside the range of DuckDB's timestamps")
        return micros.cast(target)

    return cast
