-- Notes that the bytes of a file are on disk, before it gets its name; under the fence: a former owner
-- may have written other bytes.
-- $1 sink, $2 epoch, $3 export, $4 file, $5 bytes, $6 sha256, $7 rows, $8 layout
UPDATE outbox.export e
   SET state = 'built', file = $4, bytes = $5, sha256 = $6, row_count = $7,
       layout = $8, reason = NULL
  FROM (SELECT s.name FROM outbox.sink s WHERE s.name = $1 AND s.epoch = $2 FOR SHARE NOWAIT) f
 WHERE e.id = $3 AND e.state = 'closed'
