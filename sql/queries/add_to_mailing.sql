-- Further files go along with a mail of which it is known that nobody has it: it is made anew, and called
-- after the last of them.
-- $1 sink, $2 epoch, $3 relay, $4 mailing, $5 period, $6 exports
WITH fence AS MATERIALIZED (
  SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT
), planned AS (
  UPDATE outbox.mailing m
     SET state = 'planned', period = $5, hash = NULL, actor = $3, epoch = $2,
         changed_at = clock_timestamp()
    FROM fence
   WHERE m.id = $4 AND m.state IN ('planned', 'built', 'unsent')
     AND NOT outbox.has_recipient(m.recipients, 'accepted')
  RETURNING m.id
), carried AS (
  UPDATE outbox.export e SET mailing = p.id
    FROM planned p
   WHERE e.id = ANY ($6) AND e.sink = $1 AND e.mailing IS NULL AND e.state = 'published'
)
SELECT p.id FROM planned p
