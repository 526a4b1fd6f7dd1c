-- Mails of files that wait for an operator, the oldest first.
-- $1 limit
SELECT m.sink, m.period, m.state, m.reason
  FROM outbox.mailing m
 WHERE m.state IN ('held', 'dead')
 ORDER BY m.changed_at
 LIMIT $1
