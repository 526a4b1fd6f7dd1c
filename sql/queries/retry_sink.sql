-- A page of a sink's dead deliveries becomes pending again; see retry_message.sql. By keyset, so
-- that one which dies again at once is not met twice.
-- $1 sink, $2 and $3 after this message id and target, $4 limit, $5 actor
WITH page AS MATERIALIZED (
  SELECT d.message_id, d.target
    FROM outbox.delivery d
   WHERE d.state = 'dead' AND d.sink = $1
     AND d.message_id >= $2 AND (d.message_id, d.target) > ($2, $3)
   ORDER BY d.message_id, d.target
   LIMIT $4
), again AS (
  UPDATE outbox.delivery d
     SET state = 'pending', due_at = clock_timestamp(), attempt = 0, rev = d.rev + 1
    FROM page p
   WHERE d.message_id = p.message_id AND d.sink = $1 AND d.target = p.target AND d.state = 'dead'
  RETURNING d.message_id, d.sink, d.target
), noted AS (
  INSERT INTO outbox.action (actor, verb, message_id, sink, target)
  SELECT $5, 'retry', a.message_id, a.sink, a.target FROM again a
), rung AS MATERIALIZED (
  SELECT outbox.ring(ARRAY(
           SELECT s.bell
             FROM outbox.sink s
             JOIN outbox.installation i ON i.doorbell
            WHERE s.name = $1 AND s.kind <> 'csv' AND EXISTS (SELECT FROM again)))::text AS done
)
SELECT p.message_id, p.target, r.done,
       EXISTS (SELECT FROM again a WHERE a.message_id = p.message_id AND a.target = p.target) AS applied
  FROM page p CROSS JOIN rung r
 ORDER BY p.message_id, p.target
