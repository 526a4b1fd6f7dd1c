-- One bounded step of the completeness sweep: of the next messages, those with neither an open
-- delivery nor a ledger row are entered as unseen. Answers where the step ended.
-- $1 after this message id, $2 messages a step
WITH step AS MATERIALIZED (
  SELECT m.id FROM outbox.message m WHERE m.id > $1 ORDER BY m.id LIMIT $2
), found AS (
  INSERT INTO outbox.unseen (message_id)
  SELECT s.id FROM step s
   WHERE NOT EXISTS (SELECT FROM outbox.delivery d WHERE d.message_id = s.id)
     AND NOT EXISTS (SELECT FROM outbox.ledger l WHERE l.message_id = s.id)
      ON CONFLICT ON CONSTRAINT unseen_pk DO NOTHING
  RETURNING message_id
)
SELECT (SELECT max(s.id) FROM step s) AS reached, (SELECT count(*) FROM found) AS found
