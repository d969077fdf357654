-- The snapshot up to which each input is in a model.
CREATE TABLE meta.transform_cursors (
    model VARCHAR,
    input VARCHAR,
    snapshot_id BIGINT,
    model_hash VARCHAR,
    updated_at TIMESTAMP WITH TIME ZONE,
    error VARCHAR,
    error_since TIMESTAMP WITH TIME ZONE
);
