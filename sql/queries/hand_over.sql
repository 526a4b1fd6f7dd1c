-- Gives a drained sink back, for anyone to take at once.
-- $1 relay id, $2 sink, $3 epoch
UPDATE outbox.sink SET owner = NULL WHERE name = $2 AND owner = $1 AND epoch = $3
