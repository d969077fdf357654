"""The edge to pyarrow, which comes without type stubs: its modules, typed as `Any`, and names for its values.

The names say what a value is; a checker sees nothing behind them.
"""

from typing import Any, TypeAlias

import pyarrow
import pyarrow.compute
import pyarrow.parquet

pa: Any = pyarrow
pc: Any = pyarrow.compute
pq: Any = pyarrow.parquet

Array: TypeAlias = Any
"""A `pyarrow.Array`."""

ArrowType: TypeAlias = Any
"""A `pyarrow.DataType`."""

ParquetFile: TypeAlias = Any
"""A `pyarrow.parquet.ParquetFile`."""

READ_ERRORS: tuple[type[Exception], ...] = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
"""What pyarrow raises for a broken file, its own errors and the built-in ones that they derive from.

An OSError with an errno is the disk's trouble and not the file's.
"""
