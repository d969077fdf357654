-- Rows of staging whose model key is null, by file: they are in no model.
-- severity: warn
WITH nameless AS (
    SELECT
        'stg_shopify__orders' AS staging_table,
        _source_file
    FROM staging.stg_shopify__orders
    WHERE id IS NULL
    UNION ALL
    SELECT
        'stg_shopify__customers' AS staging_table,
        _source_file
    FROM staging.stg_shopify__customers
    WHERE id IS NULL
    UNION ALL
    SELECT
        'stg_shopify__order_refunds' AS staging_table,
        _source_file
    FROM staging.stg_shopify__order_refunds
    WHERE id IS NULL OR order_id IS NULL
    UNION ALL
    SELECT
        'stg_klaviyo__profiles' AS staging_table,
        _source_file
    FROM staging.stg_klaviyo__profiles
    WHERE id IS NULL
    UNION ALL
    SELECT
        'stg_klaviyo__events' AS staging_table,
        _source_file
    FROM staging.stg_klaviyo__events
    WHERE id IS NULL
    UNION ALL
    SELECT
        'stg_klaviyo__campaigns' AS staging_table,
        _source_file
    FROM staging.stg_klaviyo__campaigns
    WHERE id IS NULL
    UNION ALL
    SELECT
        'stg_klaviyo__flows' AS staging_table,
        _source_file
    FROM staging.stg_klaviyo__flows
    WHERE id IS NULL
    UNION ALL
    SELECT
        'stg_klaviyo__lists' AS staging_table,
        _source_file
    FROM staging.stg_klaviyo__lists
    WHERE id IS NULL
    UNION ALL
    SELECT
        'stg_klaviyo__metrics' AS staging_table,
        _source_file
    FROM staging.stg_klaviyo__metrics
    WHERE id IS NULL
)

SELECT
    staging_table,
    _source_file,
    count(*) AS without_a_key
FROM nameless
GROUP BY ALL
