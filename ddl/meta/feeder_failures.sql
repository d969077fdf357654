-- The truth about dead letters: a key that can't be loaded, why, and what became of it.
CREATE TABLE meta.feeder_failures (
    source VARCHAR,
    stream VARCHAR,
    bucket VARCHAR,
    key VARCHAR,
    etag VARCHAR,
    reason VARCHAR,
    detail JSON,
    attempts INTEGER,
    failed_at TIMESTAMP WITH TIME ZONE,
    resolved_at TIMESTAMP WITH TIME ZONE,
    resolution VARCHAR
);
