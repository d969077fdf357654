-- The number of the present writer's term: one row.
CREATE TABLE meta.writer_epoch (
    epoch BIGINT,
    instance VARCHAR,
    since TIMESTAMP WITH TIME ZONE
);
