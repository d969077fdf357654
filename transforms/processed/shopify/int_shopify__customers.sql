-- One row per customer, its latest version.
-- key: customer_id
-- map: staging.stg_shopify__customers: id
WITH versions AS (
    SELECT
        id AS customer_id,
        email,
        first_name,
        last_name,
        created_at AS customer_created_at,
        updated_at AS customer_updated_at,
        orders_count,
        TRY_CAST(total_spent AS DECIMAL(18, 2)) AS total_spent,
        tags,
        state AS customer_state,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_shopify__customers
    WHERE id IS NOT NULL
)

SELECT * EXCLUDE (_airbyte_raw_id)
FROM versions
QUALIFY row_number() OVER (
    PARTITION BY customer_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        hash(versions) -- rows that are equal so far: one of them, whatever their order
) = 1
