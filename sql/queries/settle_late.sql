-- Records what was accepted although its row is gone: an operator closed it meanwhile. Once: the
-- row may also be gone because this settlement was written before and its reply was lost. A
-- statement of its own, because only a snapshot taken after the row was found gone certainly shows
-- a first writing that was still under way.
-- $1 sink, $2 message ids, $3 targets, $4 attempts, $5 receipts, $6 rounds
INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
SELECT s.message_id, $1, s.target, s.round, s.attempt, 'delivered', s.receipt
  FROM unnest($2::bigint[], $3::text[], $4::integer[], $5::text[], $6::integer[])
       AS s (message_id, target, attempt, receipt, round)
 WHERE NOT EXISTS (SELECT FROM outbox.ledger l
                    WHERE l.message_id = s.message_id AND l.sink = $1 AND l.target = s.target
                      AND l.outcome = 'delivered' AND l.attempts = s.attempt AND l.round = s.round)
