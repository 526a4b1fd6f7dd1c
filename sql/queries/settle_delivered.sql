-- Closes what was accepted. Without a fence, because it is true whoever owns the sink now. Answers
-- those that were open; see settle_late.sql for the others.
-- $1 sink, $2 message ids, $3 targets, $4 attempts, $5 receipts, $6 rounds as fetched: an operator may
-- have closed the delivery and begun another life of it meanwhile, which is not this one's to close
WITH closed AS (
  DELETE FROM outbox.delivery d
   USING unnest($2::bigint[], $3::text[], $4::integer[], $5::text[], $6::integer[])
         AS s (message_id, target, attempt, receipt, round)
   WHERE d.message_id = s.message_id AND d.sink = $1 AND d.target = s.target
     AND d.round = s.round
  RETURNING d.message_id, d.target, d.round, s.attempt, s.receipt
), kept AS (
  INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
  SELECT c.message_id, $1, c.target, c.round, c.attempt, 'delivered', c.receipt FROM closed c
)
SELECT c.message_id, c.target FROM closed c
