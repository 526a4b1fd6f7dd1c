-- The bytes of a built file are nowhere to be found: it is written again.
-- $1 sink, $2 epoch, $3 export
UPDATE outbox.export e
   SET state = 'closed', file = NULL, bytes = NULL, sha256 = NULL
  FROM (SELECT s.name FROM outbox.sink s WHERE s.name = $1 AND s.epoch = $2 FOR SHARE NOWAIT) f
 WHERE e.id = $3 AND e.state = 'built'
