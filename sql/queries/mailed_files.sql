-- The files that a mail carries, the oldest first.
-- $1 mailing
SELECT concat_ws('-', e.period, CASE WHEN e.part > 1 THEN e.part END) AS period,
       e.file, e.row_count, e.bytes, e.sha256, e.due_from, e.due_before
  FROM outbox.export e
 WHERE e.mailing = $1
 ORDER BY e.id
