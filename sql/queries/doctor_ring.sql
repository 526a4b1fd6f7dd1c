-- Rings on a channel of our own, which nobody else listens on.
-- $1 channel
SELECT pg_notify($1, '')
