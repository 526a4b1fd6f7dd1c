-- Fixes the set of a file: nothing that belongs into it is open any more, or it is full.
-- $1 sink, $2 epoch, $3 export, $4 whether its rows come from a query: then nothing gathers in it
UPDATE outbox.export e
   SET state = 'closed', closed_at = clock_timestamp()
  FROM (SELECT s.name FROM outbox.sink s WHERE s.name = $1 AND s.epoch = $2 FOR SHARE NOWAIT) f
 WHERE e.id = $3 AND e.state = 'open'
   AND ($4 OR e.row_count >= e.rows_max
        OR NOT EXISTS (SELECT FROM outbox.delivery d
                        WHERE d.sink = $1 AND d.lane = 0 AND d.due_at < e.due_before))
