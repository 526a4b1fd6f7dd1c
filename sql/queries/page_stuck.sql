-- The next deliveries of a sink that wait for something else than time, the oldest first; all of a
-- message together. The stuck index's condition is repeated, as the state is a parameter.
-- $1 state, $2 sink, $3 after this message id, $4 how many
SELECT d.message_id, d.sink, d.target, d.state, d.attempt, d.rev, d.reason, d.key, d.hold_until,
       CASE WHEN isfinite(d.due_at) THEN d.due_at END AS due_at,
       CASE WHEN isfinite(d.due_at)
            THEN extract(epoch FROM d.due_at - statement_timestamp())::bigint END AS due_in,
       m.type, m.created_at, extract(epoch FROM statement_timestamp() - m.created_at)::bigint AS age
  FROM (SELECT w.*
          FROM outbox.delivery w
         WHERE w.state = $1 AND w.state <> 'pending' AND w.sink = $2 AND w.message_id > $3
         ORDER BY w.message_id
         FETCH FIRST $4 ROWS WITH TIES) d
  LEFT JOIN outbox.message m ON m.id = d.message_id
 ORDER BY d.message_id, d.target
