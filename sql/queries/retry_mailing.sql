-- Tries a dead mail again; the function is there for SQL users too.
-- $1 sink, $2 period, $3 actor
SELECT outbox.retry_mailing($1, $2, $3) AS was
