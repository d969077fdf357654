-- One row per Klaviyo profile, its latest version.
-- key: profile_id
-- map: staging.stg_klaviyo__profiles: id
WITH versions AS (
    SELECT
        id AS profile_id,
        attributes.created AS created_at,
        attributes.updated AS updated_at,
        attributes.email AS email,
        attributes.phone_number AS phone_number,
        attributes.first_name AS first_name,
        attributes.last_name AS last_name,
        attributes.location.city AS city,
        attributes.location.region AS region,
        attributes.location.country AS country,
        attributes.location.zip AS postal_code,
        attributes.last_event_date AS last_event_date,
        attributes.predictive_analytics.total_clv AS total_clv,
        attributes.predictive_analytics.historic_clv AS historic_clv,
        attributes.predictive_analytics.predicted_clv AS predicted_clv,
        attributes.predictive_analytics.churn_probability AS churn_probability,
        attributes.predictive_analytics.average_order_value AS average_order_value,
        attributes.predictive_analytics.historic_number_of_orders AS historic_orders,
        _source_file,
        _airbyte_extracted_at,
        year,
        month,
        day,
        _airbyte_raw_id
    FROM staging.stg_klaviyo__profiles
    WHERE id IS NOT NULL
)

SELECT * EXCLUDE (_airbyte_raw_id)
FROM versions
QUALIFY row_number() OVER (
    PARTITION BY profile_id
    ORDER BY
        _airbyte_extracted_at DESC NULLS LAST,
        _airbyte_raw_id DESC NULLS LAST,
        _source_file DESC NULLS LAST,
        hash(versions) -- rows that are equal so far: one of them, whatever their order
) = 1
