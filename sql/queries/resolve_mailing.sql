-- Says of a held mail whether it arrived; the function is there for SQL users too.
-- $1 sink, $2 period, $3 whether it arrived, $4 actor
SELECT outbox.resolve_mailing($1, $2, $3, $4) AS was
