-- Says something on the channel of a LISTEN session's own, which hears it unless a pooler stands between.
-- $1 channel
SELECT pg_notify($1, '')
