-- Plans a mail for files that no mail carries yet, under the fence: see settle_open.sql. Unique on the
-- period, so that whatever happened to a mail of that period, there is no second one.
-- $1 sink, $2 epoch, $3 relay, $4 period, $5 exports
WITH fence AS MATERIALIZED (
  SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT
), planned AS (
  INSERT INTO outbox.mailing (sink, period, actor, epoch)
  SELECT f.name, $4, $3, $2 FROM fence f
  RETURNING id
), carried AS (
  UPDATE outbox.export e SET mailing = p.id
    FROM planned p
   WHERE e.id = ANY ($5) AND e.sink = $1 AND e.mailing IS NULL AND e.state = 'published'
)
SELECT p.id FROM planned p
