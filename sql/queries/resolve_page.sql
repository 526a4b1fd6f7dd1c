-- Says whether a page of held deliveries arrived, those that did not change since they were looked at.
-- $1 message ids, $2 sinks, $3 targets, $4 revs, $5 actor, $6 whether they arrived
SELECT c.message_id, c.sink, c.target, c.was, c.became FROM outbox.resolve_these($1, $2, $3, $4, $6, $5) c
