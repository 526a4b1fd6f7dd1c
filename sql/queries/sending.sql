-- Deliveries with an intent of this epoch, as a fetch would bring them: the attempt of the intent is
-- not counted yet. One that the owner does not have in hand is a stray: its intent was committed and
-- the reply was lost before the attempt began, or the database has forgotten how the attempt ended.
-- $1 sink, $2 epoch, $3 limit
SELECT d.message_id, d.target, d.lane, d.key, d.attempt - 1 AS attempt, d.rev, d.round,
       coalesce(d.crashes, 0::smallint) AS crashes, d.content_hash,
       d.recipients::text AS recipients, NULL::text AS type, false AS expired, d.repeatable
  FROM outbox.delivery d
 WHERE d.state = 'sending' AND d.sink = $1 AND d.epoch = $2
 ORDER BY d.message_id
 LIMIT $3
