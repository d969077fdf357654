-- on_new_column: rescue
-- on_delete: keep
CREATE TABLE staging.stg_shopify__customers (
    _airbyte_raw_id VARCHAR,
    _airbyte_extracted_at TIMESTAMP WITH TIME ZONE,
    _airbyte_meta STRUCT(sync_id BIGINT, changes STRUCT(field VARCHAR, change VARCHAR, reason VARCHAR)[]),
    _airbyte_generation_id BIGINT,
    id BIGINT,
    tags VARCHAR,
    email VARCHAR,
    state VARCHAR,
    last_name VARCHAR,
    created_at TIMESTAMP WITH TIME ZONE,
    first_name VARCHAR,
    updated_at TIMESTAMP WITH TIME ZONE,
    total_spent DOUBLE,
    orders_count BIGINT,
    day VARCHAR,
    month VARCHAR,
    year BIGINT,
    _source_file VARCHAR,
    _rescued_data JSON
);
