-- The next open deliveries of a key through a sink, in their order; all of a message together. The
-- key index stands by target, of which there are few: one step of the index each.
-- $1 sink, $2 key, $3 after this message id, $4 how many
WITH RECURSIVE ways AS (
  (SELECT d.target FROM outbox.delivery d
    WHERE d.sink = $1 AND d.key IS NOT NULL ORDER BY d.target LIMIT 1)
  UNION ALL
  SELECT (SELECT d.target FROM outbox.delivery d
           WHERE d.sink = $1 AND d.key IS NOT NULL AND d.target > w.target ORDER BY d.target LIMIT 1)
    FROM ways w
   WHERE w.target IS NOT NULL
)
SELECT d.message_id, d.sink, d.target, d.state, d.attempt, d.rev, d.reason, d.key, d.hold_until,
       outbox.recipient_counts(d.recipients) AS recipients,
       CASE WHEN isfinite(d.due_at) THEN d.due_at END AS due_at,
       CASE WHEN isfinite(d.due_at)
            THEN extract(epoch FROM d.due_at - statement_timestamp())::bigint END AS due_in,
       m.type, m.created_at, extract(epoch FROM statement_timestamp() - m.created_at)::bigint AS age
  FROM (SELECT p.*
          FROM ways t
         CROSS JOIN LATERAL (
                 SELECT w.* FROM outbox.delivery w
                  WHERE w.sink = $1 AND w.target = t.target AND w.key = $2 AND w.message_id > $3
                  ORDER BY w.message_id
                  LIMIT $4) p
         ORDER BY p.message_id
         FETCH FIRST $4 ROWS WITH TIES) d
  LEFT JOIN outbox.message m ON m.id = d.message_id
 ORDER BY d.message_id, d.target
