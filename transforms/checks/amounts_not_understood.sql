-- Amounts of orders and refunds that are there, but are no number that fits: they count as nothing.
-- severity: warn
WITH amounts AS (
    SELECT
        _source_file,
        CAST(id AS VARCHAR) AS id,
        unnest([
            {
                'what': 'orders.total_line_items_price',
                'landed': CAST(total_line_items_price AS VARCHAR),
                'understood': TRY_CAST(total_line_items_price AS DECIMAL(18, 2))
            },
            {
                'what': 'orders.total_discounts',
                'landed': CAST(total_discounts AS VARCHAR),
                'understood': TRY_CAST(total_discounts AS DECIMAL(18, 2))
            },
            {
                'what': 'orders.total_shipping_price_set.shop_money.amount',
                'landed': CAST(total_shipping_price_set.shop_money.amount AS VARCHAR),
                'understood': TRY_CAST(total_shipping_price_set.shop_money.amount AS DECIMAL(18, 2))
            },
            {
                'what': 'orders.total_tax',
                'landed': CAST(total_tax AS VARCHAR),
                'understood': TRY_CAST(total_tax AS DECIMAL(18, 2))
            }
        ]) AS amount
    FROM staging.stg_shopify__orders
    UNION ALL
    SELECT
        _source_file,
        CAST(id AS VARCHAR) AS id,
        unnest([
            {
                'what': 'order_refunds.transactions.amount',
                'landed': entry.amount,
                'understood': TRY_CAST(entry.amount AS DECIMAL(18, 2))
            }
            FOR entry IN transactions
        ]) AS amount
    FROM staging.stg_shopify__order_refunds
)

SELECT
    _source_file,
    amount.what AS what,
    id
FROM amounts
WHERE amount.landed IS NOT NULL AND amount.understood IS NULL
