-- Amounts of refunds that are there, but are no number that fits: they count as nothing.
-- severity: warn
WITH transactions AS (
    SELECT
        _source_file,
        id AS refund_id,
        unnest(transactions).amount AS amount
    FROM staging.stg_shopify__order_refunds
),

amounts AS (
    SELECT
        _source_file,
        'refunds.transactions.amount' AS what,
        CAST(refund_id AS VARCHAR) AS id,
        amount,
        TRY_CAST(amount AS DECIMAL(18, 2)) AS understood
    FROM transactions
    UNION ALL
    SELECT
        _source_file,
        'orders.total_line_items_price' AS what,
        CAST(id AS VARCHAR) AS id,
        CAST(total_line_items_price AS VARCHAR) AS amount,
        TRY_CAST(total_line_items_price AS DECIMAL(18, 2)) AS understood
    FROM staging.stg_shopify__orders
    UNION ALL
    SELECT
        _source_file,
        'orders.total_discounts' AS what,
        CAST(id AS VARCHAR) AS id,
        CAST(total_discounts AS VARCHAR) AS amount,
        TRY_CAST(total_discounts AS DECIMAL(18, 2)) AS understood
    FROM staging.stg_shopify__orders
    UNION ALL
    SELECT
        _source_file,
        'orders.total_shipping_price_set.shop_money.amount' AS what,
        CAST(id AS VARCHAR) AS id,
        CAST(total_shipping_price_set.shop_money.amount AS VARCHAR) AS amount,
        TRY_CAST(total_shipping_price_set.shop_money.amount AS DECIMAL(18, 2)) AS understood
    FROM staging.stg_shopify__orders
    UNION ALL
    SELECT
        _source_file,
        'orders.total_tax' AS what,
        CAST(id AS VARCHAR) AS id,
        CAST(total_tax AS VARCHAR) AS amount,
        TRY_CAST(total_tax AS DECIMAL(18, 2)) AS understood
    FROM staging.stg_shopify__orders
)

SELECT
    _source_file,
    what,
    id
FROM amounts
WHERE amount IS NOT NULL AND understood IS NULL
