-- A page of dead deliveries is tried again now, those that did not change since they were looked at.
-- $1 message ids, $2 sinks, $3 targets, $4 revs, $5 actor
SELECT c.message_id, c.sink, c.target, c.was, c.became FROM outbox.retry_these($1, $2, $3, $4, $5) c
