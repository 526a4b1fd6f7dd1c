-- How long until the next delivery of a sink falls due, in ms; NULL if none is waiting for time.
-- $1 sink, $2 lanes
SELECT (extract(epoch FROM min(n.due_at) - statement_timestamp()) * 1000)::bigint AS ms
  FROM unnest($2::smallint[]) AS l (lane)
 CROSS JOIN LATERAL (
         SELECT d.due_at
           FROM outbox.delivery d
          WHERE d.sink = $1 AND d.lane = l.lane
            AND d.due_at > statement_timestamp() AND d.due_at < 'infinity'
          ORDER BY d.due_at
          LIMIT 1) n
