"""Tells Python at once that there is no pandas, where there is none.

DuckDB's client asks for each value that is bound, each element of a list included, whether it is one of pandas's.
Python then searches its whole path for the module, in vain and each time: 0.1 to 0.3 ms an element, with the GIL held.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class NoPandas(MetaPathFinder):
    """Answers for pandas, before anybody searches."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Raises ModuleNotFoundError for pandas; all others are looked for as ever."""
        if fullname == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=fullname)
        return None


def hide_missing_pandas() -> None:
    """Installs the finder, once, unless pandas is there."""
    if any(isinstance(finder, NoPandas) for finder in sys.meta_path):
        return
    # Not by a None in sys.modules: compiled code, as pyarrow's, takes that for the module.
    if "pandas" not in sys.modules and find_spec("pandas") is None:
        sys.meta_path.insert(0, NoPandas())
