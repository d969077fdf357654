-- The position of each stream, and the fence of its loads.
CREATE TABLE meta.feeder_cursors (
    source VARCHAR,
    stream VARCHAR,
    cursor_path VARCHAR,
    cursor_date DATE,
    files BIGINT,
    rows BIGINT,
    updated_at TIMESTAMP WITH TIME ZONE
);
