-- Ends an export without rows that gives no file.
-- $1 sink, $2 epoch, $3 export
UPDATE outbox.export e
   SET state = 'empty', reason = NULL
  FROM (SELECT s.name FROM outbox.sink s WHERE s.name = $1 AND s.epoch = $2 FOR SHARE NOWAIT) f
 WHERE e.id = $3 AND e.state = 'closed'
