-- One bounded step of the completeness sweep: of the next messages, those with neither an open
-- delivery nor a ledger row are entered as unseen. Answers where the step ended. Delivery and ledger
-- are read by the range of the step: to look each message up in every partition of the ledger costs
-- as many times more as there are partitions.
-- $1 after this message id, $2 messages a step
WITH step AS MATERIALIZED (
  SELECT m.id FROM outbox.message m WHERE m.id > $1 ORDER BY m.id LIMIT $2
), reached AS MATERIALIZED (
  SELECT max(s.id) AS id FROM step s
), found AS (
  INSERT INTO outbox.unseen (message_id)
  SELECT s.id FROM step s
  EXCEPT ALL
  (SELECT d.message_id FROM outbox.delivery d
     WHERE d.message_id > $1 AND d.message_id <= (SELECT r.id FROM reached r)
   UNION
   SELECT l.message_id FROM outbox.ledger l
     WHERE l.message_id > $1 AND l.message_id <= (SELECT r.id FROM reached r))
      ON CONFLICT ON CONSTRAINT unseen_pk DO NOTHING
  RETURNING message_id
)
SELECT (SELECT r.id FROM reached r) AS reached, (SELECT count(*) FROM found) AS found
