-- on_new_column: rescue
-- on_delete: keep
CREATE TABLE staging.stg_klaviyo__metrics (
    _airbyte_raw_id VARCHAR,
    _airbyte_extracted_at TIMESTAMP WITH TIME ZONE,
    _airbyte_meta STRUCT(sync_id BIGINT, changes STRUCT(field VARCHAR, change VARCHAR, reason VARCHAR)[]),
    _airbyte_generation_id BIGINT,
    id VARCHAR,
    type VARCHAR,
    links STRUCT(self VARCHAR),
    attributes STRUCT(
        "name" VARCHAR,
        created TIMESTAMP WITH TIME ZONE,
        updated TIMESTAMP WITH TIME ZONE,
        integration JSON
    ),
    updated TIMESTAMP WITH TIME ZONE,
    relationships STRUCT(
        flow_triggers STRUCT(
            "data" STRUCT(id VARCHAR, "type" VARCHAR),
            links STRUCT(self VARCHAR, related VARCHAR)
        )
    ),
    day VARCHAR,
    month VARCHAR,
    year BIGINT,
    _source_file VARCHAR,
    _rescued_data JSON
);
