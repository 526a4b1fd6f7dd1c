-- Gives a mail up for good; the function is there for SQL users too.
-- $1 sink, $2 period, $3 actor
SELECT outbox.discard_mailing($1, $2, $3) AS was
