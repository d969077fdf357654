"""The rows that are in `main.fct_sales`, held against the rows that must be there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from consumer.landing.expected import SALES_COLUMNS, SalesRow

MAX_EXAMPLES = 5

_TIMESTAMPS = ("order_date", "cancelled_at", "_airbyte_extracted_at")
# DuckDB's client can't hand out a TIMESTAMPTZ without pytz, which we don't have: microseconds it is.
SALES_SELECT_LIST = ", ".join(
    f"epoch_us({column}) AS {column}" if column in _TIMESTAMPS else column for column in SALES_COLUMNS
)
"""What to SELECT from `main.fct_sales` for `compare_sales`."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two tables of sales differ. Names order ids and columns, never the values of a row.

    Attributes:
        expected_rows: rows that must be there.
        found_rows: rows that are there.
        missing: expected order ids that were not found.
        unexpected: found order ids that were not expected (text of it, if it is no number).
        repeated: order ids that were found more than once.
        by_column: for each column that differs, the order ids where it does.
    """

    expected_rows: int
    found_rows: int
    missing: tuple[int, ...]
    unexpected: tuple[str, ...]
    repeated: tuple[int, ...]
    by_column: Mapping[str, tuple[int, ...]]

    @property
    def equal(self) -> bool:
        """Whether both hold the same rows."""
        return not (self.missing or self.unexpected or self.repeated or self.by_column)

    def describe(self) -> str:
        """Returns a few lines for a person: counts, and some order ids to look at."""
        if self.equal:
            return f"fct_sales is as expected: {self.found_rows} rows"
        lines = [f"fct_sales differs: {self.found_rows} rows found, {self.expected_rows} expected"]
        findings: list[tuple[str, Sequence[object]]] = [
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("found more than once", self.repeated),
            *((f"column {column} differs", ids) for column, ids in self.by_column.items()),
        ]
        for what, ids in findings:
            if ids:
                examples = ", ".join(str(each) for each in ids[:MAX_EXAMPLES])
                more = ", ..." if len(ids) > MAX_EXAMPLES else ""
                lines.append(f"  {what}: {len(ids)} orders ({examples}{more})")
        return "\n".join(lines)


def compare_sales(expected: Mapping[int, SalesRow], found: Iterable[Sequence[object]]) -> Difference:
    """Compares row by row.

    Args:
        expected: rows by order id.
        found: the columns of `SALES_COLUMNS` in order; timestamps with a zone, or as microseconds since 1970.
    """
    unexpected: list[str] = []
    repeated: list[int] = []
    by_column: dict[str, list[int]] = {}
    seen: set[int] = set()
    found_rows = 0
    for values in found:
        found_rows += 1
        order_id = values[0]
        if not isinstance(order_id, int) or order_id not in expected:
            unexpected.append(str(order_id))
        elif order_id in seen:
            repeated.append(order_id)
        else:
            seen.add(order_id)
            wanted = expected[order_id].values()
            for column, want, have in zip(SALES_COLUMNS, wanted, values, strict=True):
                if not _same(want, have):
                    by_column.setdefault(column, []).append(order_id)
    return Difference(
        expected_rows=len(expected),
        found_rows=found_rows,
        missing=tuple(sorted(expected.keys() - seen)),
        unexpected=tuple(unexpected),
        repeated=tuple(repeated),
        by_column={column: tuple(ids) for column, ids in by_column.items()},
    )


def _same(want: object, have: object) -> bool:
    if isinstance(want, datetime):
        have = _EPOCH + timedelta(microseconds=have) if isinstance(have, int) else have
        return isinstance(have, datetime) and want == have
    # A float that equals a Decimal still means a wrong column type.
    return type(want) is type(have) and want == have
