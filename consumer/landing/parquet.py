"""Rows to the bytes of a Parquet file, with the schema that the project's own `ddl/` gives a stream.

The only module of the landing that imports pyarrow, which has no type information: its values are `Any`
here and stay private.
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any, Literal, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from consumer.landing.people import Row
from feeders.streams import LOADER_COLUMNS, Column
from feeders.types import DuckType, List, Map, Scalar, Struct, parse_type

Codec = Literal["snappy", "gzip", "zstd", "none"]
TimeUnit = Literal["ms", "us"]

CODECS: tuple[Codec, ...] = ("snappy", "gzip", "zstd", "none")

# Compiled, and without stubs.
_ARROW: Any = pa
_PARQUET: Any = pq
_SCALARS: dict[str, Any] = {
    "BIGINT": _ARROW.int64(),
    "BOOLEAN": _ARROW.bool_(),
    "DATE": _ARROW.date32(),
    "DOUBLE": _ARROW.float64(),
    "INTEGER": _ARROW.int32(),
    "JSON": _ARROW.string(),
    "TIMESTAMP WITH TIME ZONE": _ARROW.timestamp("us", "UTC"),
    "VARCHAR": _ARROW.string(),
}


class Encoder:
    """Writes files of one stream: all columns of its table but those that the loader fills."""

    def __init__(self, columns: Iterable[Column]) -> None:
        """Takes the table's columns, in order.

        Raises:
            ValueError: the landing has no values for a column's type.
        """
        filled = {column.name for column in LOADER_COLUMNS}
        self._schema = _ARROW.schema(
            [(each.name, _arrow_type(parse_type(each.type))) for each in columns if each.name not in filled]
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The file's columns, in order."""
        return tuple(self._schema.names)

    def encode(self, rows: Sequence[Row], *, codec: Codec, time_unit: TimeUnit) -> bytes:
        """Returns a file of these rows; what a row lacks is null. Milliseconds cut microseconds off."""
        columns = [
            _ARROW.array([row.get(each.name) for row in rows], type=each.type) for each in self._schema
        ]
        sink = io.BytesIO()
        _PARQUET.write_table(
            _ARROW.Table.from_arrays(columns, schema=self._schema),
            sink,
            compression=codec,
            coerce_timestamps=time_unit,
            allow_truncated_timestamps=True,
            store_schema=False,  # Airbyte's writer isn't Arrow, and leaves no Arrow schema behind
        )
        return sink.getvalue()


def cut_timestamp(microseconds: int, time_unit: TimeUnit) -> int:
    """Returns a timestamp as a file of this unit keeps it, still in microseconds."""
    return microseconds // 1_000 * 1_000 if time_unit == "ms" else microseconds


def _arrow_type(duck_type: DuckType) -> Any:
    match duck_type:
        case Scalar():
            if (found := _SCALARS.get(duck_type.name)) is None:
                message = (
                    f"no value can be made for a column of type {duck_type.name}; the landing knows "
                    f"{', '.join(_SCALARS)}, STRUCT and LIST: add the type to consumer/landing/parquet.py"
                )
                raise ValueError(message)
            return found
        case Struct():
            return _ARROW.struct([(each.name, _arrow_type(each.type)) for each in duck_type.fields])
        case List():
            return _ARROW.list_(_arrow_type(duck_type.element))
        case Map():
            return _ARROW.map_(_arrow_type(duck_type.key), _arrow_type(duck_type.value))
        case _:
            assert_never(duck_type)
