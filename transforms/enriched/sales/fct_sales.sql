-- One row per order, its amounts after discounts and refunds.
--
-- An absent amount counts as 0, but without gross sales there are no net and no total sales. The sums are made
-- in DECIMAL(38, 2): DuckDB does not widen DECIMAL(18, 2) and raises an error where it overflows.
-- key: order_id
-- map: main.int_shopify__orders: order_id
-- map: main.int_shopify__order_refunds: order_id
WITH amounts AS (
    SELECT
        orders.* EXCLUDE (_airbyte_extracted_at),
        coalesce(refunds.returns, 0) AS returns,
        CAST(orders.gross_sales AS DECIMAL(38, 2))
        - coalesce(orders.discounts, 0)
        - coalesce(refunds.returns, 0) AS net,
        CAST(coalesce(orders.shipping, 0) AS DECIMAL(38, 2)) + coalesce(orders.taxes, 0) AS extras,
        greatest(orders._airbyte_extracted_at, refunds._airbyte_extracted_at) AS _airbyte_extracted_at
    FROM main.int_shopify__orders AS orders
    LEFT JOIN main.int_shopify__order_refunds AS refunds ON orders.order_id = refunds.order_id
)

SELECT
    order_id,
    customer_id,
    order_date,
    cancelled_at,
    is_test_order,
    financial_status,
    fulfillment_status,
    cancel_reason,
    gross_sales,
    discounts,
    TRY_CAST(returns AS DECIMAL(18, 2)) AS returns,
    TRY_CAST(net AS DECIMAL(18, 2)) AS net_sales,
    shipping,
    taxes,
    TRY_CAST(net + extras AS DECIMAL(18, 2)) AS total_sales,
    _airbyte_extracted_at
FROM amounts
