-- The schema's version, so that an older program refuses a newer lake: one row.
CREATE TABLE meta.lotus_lake (
    schema_version INTEGER,
    app_version VARCHAR,
    updated_at TIMESTAMP WITH TIME ZONE
);
