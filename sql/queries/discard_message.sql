-- Open deliveries of one message are closed; the function is there for SQL users too.
-- $1 message id, $2 sink or NULL for all, $3 target or NULL for all, $4 actor
SELECT c.message_id, c.sink, c.target, c.was, c.became FROM outbox.discard($1, $2, $3, $4) c
 ORDER BY c.sink, c.target
