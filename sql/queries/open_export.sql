-- Opens the next file of a period, under the fence: see settle_open.sql. Parts count from 1. Not while
-- the installation or the sink is paused.
-- $1 sink, $2 epoch, $3 period, $4 due from, $5 due before, $6 most rows, $7 late from then on,
-- $8 whether a mail is to carry it
INSERT INTO outbox.export (sink, period, part, due_from, due_before, rows_max, late_at, to_mail)
SELECT f.name, $3, 1 + coalesce((SELECT max(e.part) FROM outbox.export e
                                  WHERE e.sink = $1 AND e.period = $3), 0), $4, $5, $6, $7, $8
  FROM (SELECT s.name FROM outbox.sink s
         WHERE s.name = $1 AND s.epoch = $2 AND NOT s.paused FOR SHARE NOWAIT) f
 WHERE NOT EXISTS (SELECT FROM outbox.installation i WHERE i.paused)
RETURNING id, period, part, state, due_from, due_before, rows_max, row_count, first_id, last_id, bytes,
          sha256, layout
