-- One bounded step of a look at all messages: those with neither an open delivery nor a ledger row. As the
-- sweep, but changes nothing. Answers where the step ended, NULL at the end of the table.
-- $1 after this message id, $2 span of ids
WITH first AS MATERIALIZED (
  SELECT m.id FROM outbox.message m WHERE m.id > $1 ORDER BY m.id LIMIT 1
), span AS MATERIALIZED (
  SELECT f.id AS low, f.id + $2::bigint AS high FROM first f
), missing AS MATERIALIZED (
  SELECT m.id FROM outbox.message m
   WHERE m.id >= (SELECT s.low FROM span s) AND m.id < (SELECT s.high FROM span s)
  EXCEPT ALL
  (SELECT d.message_id FROM outbox.delivery d
    WHERE d.message_id >= (SELECT s.low FROM span s) AND d.message_id < (SELECT s.high FROM span s)
   UNION
   SELECT l.message_id FROM outbox.ledger l
    WHERE l.message_id >= (SELECT s.low FROM span s) AND l.message_id < (SELECT s.high FROM span s))
)
SELECT (SELECT s.high - 1 FROM span s) AS reached, (SELECT count(*) FROM missing) AS found,
       (SELECT min(m.id) FROM missing m) AS first_id
