-- Closes what was accepted. Without a fence, because it is true whoever owns the sink now. A row
-- that is gone (closed by an operator meanwhile) is recorded all the same, once: the statement may
-- be repeated when its reply was lost.
-- $1 sink, $2 message ids, $3 targets, $4 attempts, $5 receipts
WITH settled AS MATERIALIZED (
  SELECT s.message_id, s.target, s.attempt, s.receipt
    FROM unnest($2::bigint[], $3::text[], $4::integer[], $5::text[])
         AS s (message_id, target, attempt, receipt)
), closed AS (
  DELETE FROM outbox.delivery d
   USING settled s
   WHERE d.message_id = s.message_id AND d.sink = $1 AND d.target = s.target
  RETURNING d.message_id, d.target, d.round, s.attempt, s.receipt
), late AS (
  SELECT s.message_id, s.target, 1 AS round, s.attempt, s.receipt
    FROM settled s
   WHERE (s.message_id, s.target) NOT IN (SELECT c.message_id, c.target FROM closed c)
     AND NOT EXISTS (SELECT FROM outbox.ledger l
                      WHERE l.message_id = s.message_id AND l.sink = $1 AND l.target = s.target
                        AND l.outcome = 'delivered' AND l.attempts = s.attempt)
), kept AS (
  INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
  SELECT c.message_id, $1, c.target, c.round, c.attempt, 'delivered', c.receipt FROM closed c
  UNION ALL
  SELECT l.message_id, $1, l.target, l.round, l.attempt, 'delivered', l.receipt FROM late l
)
SELECT c.message_id, c.target FROM closed c
