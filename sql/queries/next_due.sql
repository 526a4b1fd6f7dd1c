-- How long until the next delivery of a lane falls due, in ms; no row if none is waiting for time.
-- $1 sink, $2 lane
SELECT (extract(epoch FROM d.due_at - statement_timestamp()) * 1000)::bigint AS ms
  FROM outbox.delivery d
 WHERE d.sink = $1 AND d.lane = $2
   AND d.due_at > statement_timestamp() AND d.due_at < 'infinity'
 ORDER BY d.due_at
 LIMIT 1
