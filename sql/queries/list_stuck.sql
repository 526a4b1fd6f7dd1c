-- Deliveries that wait for something else than time, the newest first. A bounded walk of the
-- stuck index for each state and sink; its condition is repeated, as the states are a parameter.
-- $1 states, $2 sinks, $3 limit
SELECT d.message_id, d.sink, d.target, d.state, d.attempt, d.rev, d.reason, d.key, d.hold_until,
       outbox.recipient_counts(d.recipients) AS recipients,
       CASE WHEN isfinite(d.due_at) THEN d.due_at END AS due_at,
       CASE WHEN isfinite(d.due_at)
            THEN extract(epoch FROM d.due_at - statement_timestamp())::bigint END AS due_in,
       m.type, m.created_at, extract(epoch FROM statement_timestamp() - m.created_at)::bigint AS age
  FROM (SELECT p.*
          FROM unnest($1::text[]) AS s (state)
         CROSS JOIN unnest($2::text[]) AS n (sink)
         CROSS JOIN LATERAL (
                 SELECT w.*
                   FROM outbox.delivery w
                  WHERE w.state = s.state AND w.state <> 'pending' AND w.sink = n.sink
                  ORDER BY w.message_id DESC
                  LIMIT $3) p
         ORDER BY p.message_id DESC, p.sink, p.target
         LIMIT $3) d
  LEFT JOIN outbox.message m ON m.id = d.message_id
 ORDER BY d.message_id DESC, d.sink, d.target
