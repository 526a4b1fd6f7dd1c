-- Commits intents before the first byte that could deliver: from here on only the relay with this
-- epoch knows how the attempt ends. Answers the deliveries that may start; one whose rev no longer fits
-- was changed by an operator since it was fetched, and does not. The fence: see settle_open.sql.
-- $1 sink, $2 epoch, $3 message ids, $4 targets, $5 revs, $6 whether each may be repeated
WITH fence AS MATERIALIZED (
  SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT
)
UPDATE outbox.delivery d
   SET state = 'sending', due_at = 'infinity', attempt = d.attempt + 1, rev = d.rev + 1,
       epoch = $2, repeatable = s.repeatable
  FROM unnest($3::bigint[], $4::text[], $5::integer[], $6::boolean[])
       AS s (message_id, target, rev, repeatable),
       fence
 WHERE d.message_id = s.message_id AND d.sink = $1 AND d.target = s.target AND d.rev = s.rev
   AND d.state = 'pending'
RETURNING d.message_id, d.target
