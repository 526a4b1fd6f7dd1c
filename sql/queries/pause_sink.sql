-- Pauses a sink, or lets it go on; answers whether that changed anything.
-- $1 sink, $2 whether to pause it, $3 actor
SELECT outbox.pause_sink($1, $2, $3) AS changed
