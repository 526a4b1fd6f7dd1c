-- The next deliveries of a lane that wait for time or for their turn, the oldest due first; all of a
-- message that fall due together.
-- $1 sink, $2 lane, $3 due after this, NULL for now, $4 or then and after this message id,
-- $5 how many
SELECT d.message_id, d.sink, d.target, d.state, d.attempt, d.rev, d.reason, d.key, d.hold_until,
       CASE WHEN isfinite(d.due_at) THEN d.due_at END AS due_at,
       CASE WHEN isfinite(d.due_at)
            THEN extract(epoch FROM d.due_at - statement_timestamp())::bigint END AS due_in,
       m.type, m.created_at, extract(epoch FROM statement_timestamp() - m.created_at)::bigint AS age
  FROM (SELECT w.*
          FROM outbox.delivery w
         WHERE w.sink = $1 AND w.lane = $2
           AND w.due_at >= coalesce($3, statement_timestamp()) AND w.due_at < 'infinity'
           AND (w.due_at, w.message_id) > (coalesce($3, statement_timestamp()), $4)
         ORDER BY w.due_at, w.message_id
         FETCH FIRST $5 ROWS WITH TIES) d
  LEFT JOIN outbox.message m ON m.id = d.message_id
 ORDER BY d.due_at, d.message_id, d.target
