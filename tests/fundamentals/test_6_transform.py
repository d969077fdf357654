"""6. A transform: what is committed to staging flows on to `int_*` and `fct_*`, all of them in one snapshot."""

from datetime import UTC, datetime
from decimal import Decimal

from tests.service import RunningService, order_key, parquet

SALES = (
    "SELECT order_id, gross_sales, net_sales, total_sales FROM main.fct_sales"
    " WHERE order_id BETWEEN 600 AND 699 ORDER BY order_id"
)
NOON = datetime(2026, 7, 4, 12, tzinfo=UTC)
LATER = datetime(2026, 7, 4, 13, tzinfo=UTC)


def order(number: int, gross: float, *, extracted_at: datetime = NOON) -> dict[str, object]:
    return {
        "_airbyte_extracted_at": extracted_at,
        "id": number,
        "total_line_items_price": gross,
        "total_discounts": 10.0,
        "total_tax": 2.5,
    }


def test_a_commit_flows_into_the_models(service: RunningService) -> None:
    # Two orders. Net is gross less discounts and returns; the total adds shipping and taxes.
    service.put(order_key("first"), parquet([order(601, 100.0), order(602, 50.0)]))
    service.wait_for_rows(
        SALES,
        [
            (601, Decimal("100.00"), Decimal("90.00"), Decimal("92.50")),
            (602, Decimal("50.00"), Decimal("40.00"), Decimal("42.50")),
        ],
    )

    # A later version of order 602 comes in another file. Staging keeps both, the models show the latest.
    service.put(order_key("second"), parquet([order(602, 80.0, extracted_at=LATER)]))
    service.wait_for_rows(
        SALES,
        [
            (601, Decimal("100.00"), Decimal("90.00"), Decimal("92.50")),
            (602, Decimal("80.00"), Decimal("70.00"), Decimal("72.50")),
        ],
    )
    assert service.rows("SELECT count(*) FROM staging.stg_shopify__orders WHERE id = 602") == [(2,)]
    assert service.rows("SELECT count(*) FROM main.int_shopify__orders WHERE order_id = 602") == [(1,)]

    # Each model notes up to which snapshot its inputs are in it.
    assert service.rows(
        "SELECT input, snapshot_id IS NOT NULL, error FROM meta.transform_cursors"
        " WHERE model = 'fct_sales' ORDER BY input"
    ) == [
        ("main.int_shopify__order_refunds", True, None),
        ("main.int_shopify__orders", True, None),
    ]
