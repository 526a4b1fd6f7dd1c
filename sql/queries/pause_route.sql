-- Pauses a route, or lets it go on; answers whether that changed anything.
-- $1 pattern, $2 sink, $3 target, $4 whether to pause it, $5 actor
SELECT outbox.pause_route($1, $2, $3, $4, $5) AS changed
