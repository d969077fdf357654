-- One row per Klaviyo list, its latest version.
-- key: list_id
-- map: staging.stg_klaviyo__lists: id
WITH versions AS (
    SELECT
        id AS list_id,
        attributes.name AS list_name,
        attributes.opt_in_process AS opt_in_process,
        attributes.created AS created_at,
        attributes.updated AS updated_at,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_klaviyo__lists
    WHERE id IS NOT NULL
)

SELECT * EXCLUDE (_airbyte_raw_id)
FROM versions
QUALIFY row_number() OVER (
    PARTITION BY list_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        hash(versions) -- rows that are equal so far: one of them, whatever their order
) = 1
