-- The runs of a period, the last round first.
-- $1 schedule, $2 period
SELECT o.round, o.state, o.ran_at, o.messages, o.actor
  FROM outbox.occurrence o
 WHERE o.schedule = $1 AND o.period = $2
 ORDER BY o.round DESC
