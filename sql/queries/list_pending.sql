-- Deliveries that wait for time or for their turn, the oldest due first. A bounded walk of the
-- fetch index for each sink and lane, so that a flooded sink does not make this slow.
-- $1 sinks, $2 lanes, $3 limit
SELECT d.message_id, d.sink, d.target, d.state, d.attempt, d.rev, d.reason, d.key, d.hold_until,
       outbox.recipient_counts(d.recipients) AS recipients,
       CASE WHEN isfinite(d.due_at) THEN d.due_at END AS due_at,
       CASE WHEN isfinite(d.due_at)
            THEN extract(epoch FROM d.due_at - statement_timestamp())::bigint END AS due_in,
       m.type, m.created_at, extract(epoch FROM statement_timestamp() - m.created_at)::bigint AS age
  FROM (SELECT p.*
          FROM unnest($1::text[]) AS n (sink)
         CROSS JOIN unnest($2::smallint[]) AS l (lane)
         CROSS JOIN LATERAL (
                 SELECT w.*
                   FROM outbox.delivery w
                  WHERE w.sink = n.sink AND w.lane = l.lane AND w.due_at < 'infinity'
                  ORDER BY w.due_at, w.message_id
                  LIMIT $3) p
         ORDER BY p.due_at, p.message_id, p.sink, p.target
         LIMIT $3) d
  LEFT JOIN outbox.message m ON m.id = d.message_id
 ORDER BY d.due_at, d.message_id, d.sink, d.target
