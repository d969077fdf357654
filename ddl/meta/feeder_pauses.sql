-- The streams that a person has paused, since when, and why: their keys stay in the queue. No row: not paused.
CREATE TABLE meta.feeder_pauses (
    source VARCHAR,
    stream VARCHAR,
    since TIMESTAMP WITH TIME ZONE,
    by_whom VARCHAR,
    reason VARCHAR
);
