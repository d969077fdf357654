"""A module that is not there is not searched for at each value that is bound."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from feeders.arrow import pa
from feeders.lake import memory_connection


class Searched(MetaPathFinder):
    """Counts the searches for pandas that come as far as this."""

    def __init__(self) -> None:
        self.times = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        self.times += fullname == "pandas"
        return None


def test_binding_a_list_searches_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = Searched()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, searched])
    rows = (
        memory_connection().execute("SELECT unnest(?)", ([str(number) for number in range(100)],)).fetchall()
    )
    assert len(rows) == 100
    assert searched.times == 0


def test_who_wants_pandas_hears_that_it_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match="pandas"):
        importlib.import_module("pandas")
    assert pa.array([1.5, None]).to_pylist() == [1.5, None]
    assert pa.table({"text": ["{}"]}).column("text").to_pylist() == ["{}"]
