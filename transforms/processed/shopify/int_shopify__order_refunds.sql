-- One row per order with refunds, what was paid back.
--
-- A refund may move to another order and counts for its newest one only. So a changed row concerns every order
-- that any version of its refund has named, and an order's row needs all versions of each refund that named it.
-- key: order_id
-- map: staging.stg_shopify__order_refunds:
--     SELECT order_id FROM changed
--     UNION
--     SELECT order_id FROM staging.stg_shopify__order_refunds WHERE id IN (SELECT id FROM changed)
-- restrict: staging.stg_shopify__order_refunds:
--     id IN (SELECT id FROM staging.stg_shopify__order_refunds WHERE order_id IN (SELECT key FROM keys))
WITH versions AS (
    SELECT
        id AS refund_id,
        order_id,
        list_sum([
            TRY_CAST(entry.amount AS DECIMAL(18, 2))
            FOR entry IN transactions
            IF entry.kind = 'refund' AND entry.status = 'success' AND entry.test IS NOT TRUE
        ]) AS amount,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_shopify__order_refunds
    WHERE id IS NOT NULL
),

refunds AS (
    SELECT *
    FROM versions
    QUALIFY row_number() OVER (
        PARTITION BY refund_id
        ORDER BY
            _airbyte_extracted_at DESC NULLS LAST,
            _airbyte_raw_id DESC NULLS LAST,
            _source_file DESC NULLS LAST,
            hash(versions) -- rows that are equal so far: one of them, whatever their order
    ) = 1
)

SELECT
    order_id,
    TRY_CAST(coalesce(sum(amount) OVER (PARTITION BY order_id), 0) AS DECIMAL(18, 2)) AS returns,
    count(*) OVER (PARTITION BY order_id) AS refund_count,
    _source_file,
    _airbyte_extracted_at,
    year,
    month,
    day
FROM refunds
WHERE order_id IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY order_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        refund_id DESC
) = 1
