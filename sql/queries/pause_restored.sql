-- Pauses a copy in another cluster. Answers whether it is one, NULL where the server does not tell.
-- $1 actor
SELECT outbox.pause_restored($1) AS restored
