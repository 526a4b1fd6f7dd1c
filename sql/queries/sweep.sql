-- One bounded step of the completeness sweep. Of the next messages, those with neither an open delivery
-- nor a ledger row are entered as unseen, and what was entered before and is not so any more is taken
-- out; pending deliveries past the retry horizon of their sink are entered as late, up to a limit a sink.
-- Delivery and ledger are read by the span of ids: to look each message up in every partition of the
-- ledger costs as many times more as there are partitions. A span and not a number of rows, because
-- between two messages that retention left there may be millions of ledger rows of others.
-- Answers where the step ended, NULL at the end of the table, and how many unseen were found.
-- $1 after this message id, $2 span of ids, $3 most late deliveries a sink
WITH first AS MATERIALIZED (
  SELECT m.id FROM outbox.message m WHERE m.id > $1 ORDER BY m.id LIMIT 1
), span AS MATERIALIZED (
  SELECT f.id AS low, f.id + $2::bigint AS high FROM first f
), step AS MATERIALIZED (
  SELECT m.id, greatest(m.created_at, m.due_at) AS wanted_at
    FROM outbox.message m
   WHERE m.id >= (SELECT s.low FROM span s) AND m.id < (SELECT s.high FROM span s)
), standing AS MATERIALIZED (
  SELECT d.message_id, d.sink, d.target, d.state
    FROM outbox.delivery d
   WHERE d.message_id >= (SELECT s.low FROM span s) AND d.message_id < (SELECT s.high FROM span s)
), missing AS MATERIALIZED (
  SELECT s.id FROM step s
  EXCEPT ALL
  (SELECT d.message_id FROM standing d
   UNION
   SELECT l.message_id FROM outbox.ledger l
    WHERE l.message_id >= (SELECT s.low FROM span s) AND l.message_id < (SELECT s.high FROM span s))
), settled AS (
  DELETE FROM outbox.unseen u
   WHERE u.message_id > $1 AND u.message_id < coalesce((SELECT s.high FROM span s), 9223372036854775807)
     AND u.message_id NOT IN (SELECT m.id FROM missing m)
), found AS (
  INSERT INTO outbox.unseen (message_id)
  SELECT m.id FROM missing m
      ON CONFLICT ON CONSTRAINT unseen_pk DO NOTHING
  RETURNING message_id
), room AS MATERIALIZED (
  SELECT f.sink, f.horizon,
         $3::bigint - (SELECT count(*) FROM (SELECT FROM outbox.late t WHERE t.sink = f.sink LIMIT $3) t) AS places
    FROM outbox.flow f WHERE f.horizon IS NOT NULL
), late AS (
  INSERT INTO outbox.late (sink, message_id, target)
  SELECT l.sink, l.message_id, l.target
    FROM (SELECT d.sink, d.message_id, d.target, r.places,
                 row_number() OVER (PARTITION BY d.sink ORDER BY d.message_id, d.target) AS place
            FROM standing d
            JOIN step s ON s.id = d.message_id
            JOIN room r ON r.sink = d.sink
           WHERE d.state = 'pending' AND s.wanted_at + r.horizon < statement_timestamp()) l
   WHERE l.place <= l.places
      ON CONFLICT ON CONSTRAINT late_pk DO NOTHING
)
SELECT (SELECT s.high - 1 FROM span s) AS reached, (SELECT count(*) FROM found) AS found
