-- Says whether held deliveries of one message arrived; the function is there for SQL users too.
-- $1 message id, $2 sink or NULL for all, $3 target or NULL for all, $4 actor, $5 whether they arrived
SELECT c.message_id, c.sink, c.target, c.was, c.became FROM outbox.resolve($1, $2, $3, $5, $4) c
 ORDER BY c.sink, c.target
