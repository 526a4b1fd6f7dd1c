-- Records attempts that did not close their delivery: pending again later, dead, or held. The relay is
-- alive and says so, so the attempt was no crash; one that was not made forgets none either
-- (after a crash none begins without its intent).
-- The fence is a lock, not a read: a take-over in progress makes this fail, and when it is repeated
-- the epoch no longer fits, so a former owner changes nothing. It does not wait, because other sinks
-- would wait behind it on the same connection. Addressed by the rev that was fetched,
-- so an operator's action in between is not undone. Whoever of the recipients accepted before, says the row
-- and not the attempt that did not see it: see note_accepted.sql.
-- $1 sink, $2 epoch, $3 message ids, $4 targets, $5 revs, $6 attempts, $7 states, $8 delays in ms,
-- $9 reasons, $10 hashes of what was sent, $11 what was learned of recipients
WITH fence AS MATERIALIZED (
  SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT
)
UPDATE outbox.delivery d
   SET state = s.state,
       due_at = CASE WHEN s.state = 'pending'
                     THEN clock_timestamp() + s.delay * interval '1 ms' ELSE 'infinity' END,
       attempt = s.attempt, rev = d.rev + 1, reason = s.reason, epoch = NULL,
       repeatable = NULL,
       crashes = CASE WHEN d.state <> 'sending' OR s.attempt < d.attempt THEN d.crashes END,
       content_hash = coalesce(s.content_hash, d.content_hash),
       recipients = CASE WHEN s.recipients IS NULL THEN d.recipients
                         ELSE outbox.learned(d.recipients, s.recipients::jsonb) END
  FROM unnest($3::bigint[], $4::text[], $5::integer[], $6::integer[], $7::text[], $8::bigint[],
              $9::text[], $10::bytea[], $11::text[])
       AS s (message_id, target, rev, attempt, state, delay, reason, content_hash, recipients),
       fence
 WHERE d.message_id = s.message_id AND d.sink = $1 AND d.target = s.target AND d.rev = s.rev
RETURNING d.message_id, d.target
