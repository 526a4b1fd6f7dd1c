-- What operators did to a message's deliveries, oldest first.
-- $1 message id
SELECT a.acted_at, a.actor, a.verb, a.sink, a.target, a.note
  FROM outbox.action a
 WHERE a.message_id = $1
 ORDER BY a.id
 LIMIT 1000
