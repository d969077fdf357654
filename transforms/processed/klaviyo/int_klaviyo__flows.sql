-- One row per Klaviyo flow, its latest version.
-- key: flow_id
-- map: staging.stg_klaviyo__flows: id
WITH versions AS (
    SELECT
        id AS flow_id,
        attributes.name AS flow_name,
        attributes.status AS status,
        attributes.trigger_type AS trigger_type,
        attributes.archived AS is_archived,
        attributes.created AS created_at,
        attributes.updated AS updated_at,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_klaviyo__flows
    WHERE id IS NOT NULL
)

SELECT * EXCLUDE (_airbyte_raw_id)
FROM versions
QUALIFY row_number() OVER (
    PARTITION BY flow_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        hash(versions) -- rows that are equal so far: one of them, whatever their order
) = 1
