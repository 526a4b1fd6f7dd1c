-- Dead deliveries of one message become pending, due now, with all their attempts to come; rings
-- their sinks. The rev counts up, so that an attempt's end fetched before applies to nothing.
-- $1 message id, $2 sink or NULL for all, $3 target or NULL for all, $4 actor
WITH again AS (
  UPDATE outbox.delivery d
     SET state = 'pending', due_at = clock_timestamp(), attempt = 0, rev = d.rev + 1
   WHERE d.message_id = $1 AND d.sink = coalesce($2, d.sink) AND d.target = coalesce($3, d.target)
     AND d.state = 'dead'
  RETURNING d.message_id, d.sink, d.target
), noted AS (
  INSERT INTO outbox.action (actor, verb, message_id, sink, target)
  SELECT $4, 'retry', a.message_id, a.sink, a.target FROM again a
), rung AS MATERIALIZED (
  SELECT outbox.ring(ARRAY(
           SELECT DISTINCT s.bell
             FROM again a
             JOIN outbox.sink s ON s.name = a.sink AND s.kind <> 'csv'
             JOIN outbox.installation i ON i.doorbell))::text AS done
)
SELECT a.message_id, a.sink, a.target, r.done
  FROM again a CROSS JOIN rung r
 ORDER BY a.sink, a.target
