-- One row per Klaviyo campaign, its latest version.
-- key: campaign_id
-- map: staging.stg_klaviyo__campaigns: id
WITH versions AS (
    SELECT
        id AS campaign_id,
        attributes.name AS campaign_name,
        attributes.status AS status,
        attributes.channel AS channel,
        attributes.archived AS is_archived,
        attributes.created_at AS created_at,
        attributes.updated_at AS updated_at,
        attributes.scheduled_at AS scheduled_at,
        attributes.send_time AS send_time,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_klaviyo__campaigns
    WHERE id IS NOT NULL
)

SELECT * EXCLUDE (_airbyte_raw_id)
FROM versions
QUALIFY row_number() OVER (
    PARTITION BY campaign_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        hash(versions) -- rows that are equal so far: one of them, whatever their order
) = 1
