-- The catalog's role and database. Run it once as a superuser, with a password of your own.
CREATE ROLE ducklake LOGIN PASSWORD 'replace-this-password';
-- Without these two a writer that is stopped inside a transaction blocks the commits of all others for ever.
-- The first must be longer than the slowest transaction: the session idles while DuckDB writes the rows.
ALTER ROLE ducklake SET idle_in_transaction_session_timeout = '10min';
ALTER ROLE ducklake SET lock_timeout = '30s';
ALTER ROLE ducklake SET timezone = 'UTC';
CREATE DATABASE ducklake OWNER ducklake;
REVOKE ALL ON DATABASE ducklake FROM PUBLIC;
