-- The ledger: one row a load or removal. The latest row of a bucket and key is its current state.
CREATE TABLE meta.feeder_files (
    source VARCHAR,
    stream VARCHAR,
    bucket VARCHAR,
    key VARCHAR,
    etag VARCHAR,
    version_id VARCHAR,
    size_bytes BIGINT,
    last_modified TIMESTAMP WITH TIME ZONE,
    rows BIGINT,
    rescued_rows BIGINT,
    action VARCHAR, -- loaded, replaced, removed, replayed or adopted
    found_by VARCHAR,
    requested_by VARCHAR,
    reason VARCHAR,
    epoch BIGINT,
    loaded_at TIMESTAMP WITH TIME ZONE
);
