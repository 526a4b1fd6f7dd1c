-- Moves deliveries into an open file: from here on they are closed as exported. Under the fence,
-- and only while the file is open.
-- $1 sink, $2 epoch, $3 export, $4 message ids, $5 targets, $6 revs
WITH fence AS MATERIALIZED (
  SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT
), file AS MATERIALIZED (
  SELECT e.id FROM outbox.export e, fence WHERE e.id = $3 AND e.state = 'open' FOR UPDATE OF e
), moved AS (
  DELETE FROM outbox.delivery d
   USING unnest($4::bigint[], $5::text[], $6::integer[]) AS s (message_id, target, rev), file
   WHERE d.message_id = s.message_id AND d.sink = $1 AND d.target = s.target AND d.rev = s.rev
  RETURNING d.message_id, d.target, d.round, d.attempt
), kept AS (
  INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, export_id)
  SELECT m.message_id, $1, m.target, m.round, m.attempt + 1, 'exported', $3 FROM moved m
), counted AS (
  UPDATE outbox.export e
     SET row_count = e.row_count + t.n,
         first_id = least(e.first_id, t.low), last_id = greatest(e.last_id, t.high)
    FROM (SELECT count(*) AS n, min(m.message_id) AS low, max(m.message_id) AS high FROM moved m) t
   WHERE e.id = $3 AND t.n > 0
)
SELECT count(*) AS moved FROM moved
