-- A page of deliveries that wait because their route was paused falls due now.
-- $1 message ids, $2 sinks, $3 targets, $4 revs
SELECT c.message_id, c.sink, c.target, c.was, c.became FROM outbox.release_these($1, $2, $3, $4) c
