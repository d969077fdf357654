-- One row per order, its latest version.
-- key: order_id
-- map: staging.stg_shopify__orders: id
WITH versions AS (
    SELECT
        id AS order_id,
        customer.id AS customer_id,
        created_at AS order_date,
        updated_at AS order_updated_at,
        cancelled_at,
        test AS is_test_order,
        financial_status,
        fulfillment_status,
        cancel_reason,
        TRY_CAST(total_line_items_price AS DECIMAL(18, 2)) AS gross_sales,
        TRY_CAST(total_discounts AS DECIMAL(18, 2)) AS discounts,
        TRY_CAST(total_shipping_price_set.shop_money.amount AS DECIMAL(18, 2)) AS shipping,
        TRY_CAST(total_tax AS DECIMAL(18, 2)) AS taxes,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_shopify__orders
    WHERE id IS NOT NULL
)

SELECT * EXCLUDE (_airbyte_raw_id)
FROM versions
QUALIFY row_number() OVER (
    PARTITION BY order_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        hash(versions) -- rows that are equal so far: one of them, whatever their order
) = 1
