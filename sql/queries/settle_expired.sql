-- Closes what was not sent because its time had passed; of a mail that was sent to some of its recipients,
-- with what became of each. Under the fence: see settle_open.sql.
-- $1 sink, $2 epoch, $3 message ids, $4 targets, $5 revs
WITH fence AS MATERIALIZED (
  SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT
), closed AS (
  DELETE FROM outbox.delivery d
   USING unnest($3::bigint[], $4::text[], $5::integer[]) AS s (message_id, target, rev), fence
   WHERE d.message_id = s.message_id AND d.sink = $1 AND d.target = s.target AND d.rev = s.rev
  RETURNING d.message_id, d.target, d.round, d.attempt, d.recipients
), kept AS (
  INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
  SELECT c.message_id, $1, c.target, c.round, c.attempt, 'expired',
         'recipients: ' || outbox.recipient_counts(c.recipients)
    FROM closed c
)
SELECT c.message_id, c.target FROM closed c
