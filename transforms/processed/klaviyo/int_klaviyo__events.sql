-- One row per Klaviyo event, its latest version.
-- key: event_id
-- map: staging.stg_klaviyo__events: id
WITH versions AS (
    SELECT
        id AS event_id,
        relationships.profile.data.id AS profile_id,
        relationships.metric.data.id AS metric_id,
        datetime AS event_datetime,
        attributes.timestamp AS event_timestamp,
        attributes.uuid AS event_uuid,
        attributes.event_properties AS properties,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_klaviyo__events
    WHERE id IS NOT NULL
)

SELECT * EXCLUDE (_airbyte_raw_id)
FROM versions
QUALIFY row_number() OVER (
    PARTITION BY event_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        hash(versions) -- rows that are equal so far: one of them, whatever their order
) = 1
