"""The rows that are in `main.fct_sales` or `main.fct_customer_engagement`, held against those that must be there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from consumer.landing.engagement import ENGAGEMENT_COLUMNS, EngagementRow
from consumer.landing.expected import SALES_COLUMNS, SalesRow

MAX_EXAMPLES = 5

Key = int | str
_TIMESTAMPS = ("order_date", "cancelled_at", "_airbyte_extracted_at", "first_event_at", "last_event_at")


def _select_list(columns: Iterable[str]) -> str:
    # DuckDB's client can't hand out a TIMESTAMPTZ without pytz, which we don't have: microseconds it is.
    return ", ".join(f"epoch_us({each}) AS {each}" if each in _TIMESTAMPS else each for each in columns)


SALES_SELECT_LIST = _select_list(SALES_COLUMNS)
"""What to SELECT from `main.fct_sales` for `compare_sales`."""
ENGAGEMENT_SELECT_LIST = _select_list(ENGAGEMENT_COLUMNS)
"""What to SELECT from `main.fct_customer_engagement` for `compare_engagement`."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a table differs from what it must hold. Names keys and columns, never the values of a row.

    Attributes:
        table: its name.
        expected_rows: rows that must be there.
        found_rows: rows that are there.
        missing: expected keys that were not found.
        unexpected: found keys that were not expected, as text.
        repeated: keys that were found more than once.
        by_column: for each column that differs, the keys where it does.
    """

    table: str
    expected_rows: int
    found_rows: int
    missing: tuple[Key, ...]
    unexpected: tuple[str, ...]
    repeated: tuple[Key, ...]
    by_column: Mapping[str, tuple[Key, ...]]

    @property
    def equal(self) -> bool:
        """Whether both hold the same rows."""
        return not (self.missing or self.unexpected or self.repeated or self.by_column)

    def describe(self) -> str:
        """Returns a few lines for a person: counts, and some keys to look at."""
        if self.equal:
            return f"{self.table} is as expected: {self.found_rows} rows"
        lines = [f"{self.table} differs: {self.found_rows} rows found, {self.expected_rows} expected"]
        findings: list[tuple[str, Sequence[object]]] = [
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("found more than once", self.repeated),
            *((f"column {column} differs", keys) for column, keys in self.by_column.items()),
        ]
        for what, keys in findings:
            if keys:
                examples = ", ".join(str(each) for each in keys[:MAX_EXAMPLES])
                more = ", ..." if len(keys) > MAX_EXAMPLES else ""
                lines.append(f"  {what}: {len(keys)} rows ({examples}{more})")
        return "\n".join(lines)


def compare_sales(expected: Mapping[int, SalesRow], found: Iterable[Sequence[object]]) -> Difference:
    """Compares `main.fct_sales` row by row.

    Args:
        expected: rows by order id.
        found: the columns of `SALES_COLUMNS` in order; timestamps with a zone, or as microseconds since 1970.
    """
    wanted: dict[Key, tuple[object, ...]] = {key: row.values() for key, row in expected.items()}
    return _compare("fct_sales", SALES_COLUMNS, wanted, found)


def compare_engagement(
    expected: Mapping[str, EngagementRow], found: Iterable[Sequence[object]]
) -> Difference:
    """Compares `main.fct_customer_engagement` row by row.

    Args:
        expected: rows by profile id.
        found: the columns of `ENGAGEMENT_COLUMNS` in order; timestamps as for `compare_sales`.
    """
    wanted: dict[Key, tuple[object, ...]] = {key: row.values() for key, row in expected.items()}
    return _compare("fct_customer_engagement", ENGAGEMENT_COLUMNS, wanted, found)


def _compare(
    table: str,
    columns: Sequence[str],
    expected: Mapping[Key, tuple[object, ...]],
    found: Iterable[Sequence[object]],
) -> Difference:
    unexpected: list[str] = []
    repeated: list[Key] = []
    by_column: dict[str, list[Key]] = {}
    seen: set[Key] = set()
    found_rows = 0
    for values in found:
        found_rows += 1
        key = values[0]
        if not isinstance(key, int | str) or key not in expected:
            unexpected.append(str(key))
        elif key in seen:
            repeated.append(key)
        else:
            seen.add(key)
            for column, want, have in zip(columns, expected[key], values, strict=True):
                if not _same(want, have):
                    by_column.setdefault(column, []).append(key)
    return Difference(
        table=table,
        expected_rows=len(expected),
        found_rows=found_rows,
        missing=tuple(sorted(expected.keys() - seen, key=str)),
        unexpected=tuple(unexpected),
        repeated=tuple(repeated),
        by_column={column: tuple(keys) for column, keys in by_column.items()},
    )


def _same(want: object, have: object) -> bool:
    if isinstance(want, datetime):
        have = _EPOCH + timedelta(microseconds=have) if isinstance(have, int) else have
        return isinstance(have, datetime) and want == have
    # A float that equals a Decimal still means a wrong column type.
    return type(want) is type(have) and want == have
