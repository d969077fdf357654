-- The totals of fct_sales are those of the orders and refunds that it is made of.
-- severity: error
WITH sales AS (
    SELECT
        count(*) AS orders,
        sum(CAST(gross_sales AS DECIMAL(38, 2))) AS gross_sales,
        sum(CAST(discounts AS DECIMAL(38, 2))) AS discounts,
        sum(CAST(returns AS DECIMAL(38, 2))) AS returns,
        sum(CAST(shipping AS DECIMAL(38, 2))) AS shipping,
        sum(CAST(taxes AS DECIMAL(38, 2))) AS taxes
    FROM main.fct_sales
),

orders AS (
    SELECT
        count(*) AS orders,
        sum(CAST(gross_sales AS DECIMAL(38, 2))) AS gross_sales,
        sum(CAST(discounts AS DECIMAL(38, 2))) AS discounts,
        sum(CAST(shipping AS DECIMAL(38, 2))) AS shipping,
        sum(CAST(taxes AS DECIMAL(38, 2))) AS taxes
    FROM main.int_shopify__orders
),

refunds AS (
    SELECT sum(CAST(returns AS DECIMAL(38, 2))) AS returns
    FROM main.int_shopify__order_refunds
    WHERE order_id IN (SELECT order_id FROM main.int_shopify__orders)
),

totals AS (
    SELECT
        unnest(['orders', 'gross_sales', 'discounts', 'returns', 'shipping', 'taxes']) AS total,
        unnest([
            sales.orders, sales.gross_sales, sales.discounts, sales.returns, sales.shipping, sales.taxes
        ]) AS of_sales,
        unnest([
            orders.orders, orders.gross_sales, orders.discounts, refunds.returns, orders.shipping, orders.taxes
        ]) AS of_inputs
    FROM sales, orders, refunds
)

SELECT
    total,
    of_sales,
    of_inputs
FROM totals
WHERE coalesce(of_sales, 0) <> coalesce(of_inputs, 0)
