-- One row per Klaviyo metric, its latest version.
-- key: metric_id
-- map: staging.stg_klaviyo__metrics: id
WITH versions AS (
    SELECT
        id AS metric_id,
        attributes.name AS metric_name,
        attributes.created AS created_at,
        attributes.updated AS updated_at,
        attributes.integration AS integration,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_klaviyo__metrics
    WHERE id IS NOT NULL
)

SELECT * EXCLUDE (_airbyte_raw_id)
FROM versions
QUALIFY row_number() OVER (
    PARTITION BY metric_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        hash(versions) -- rows that are equal so far: one of them, whatever their order
) = 1
