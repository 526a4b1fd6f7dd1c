-- The files of a mail, and the file of a period whether it has a mail or not.
-- $1 sink, $2 period, $3 mailing or NULL
SELECT e.sink, concat_ws('-', e.period, CASE WHEN e.part > 1 THEN e.part END) AS name, e.state,
       e.due_from, e.due_before, e.row_count, e.late_rows, e.file, e.bytes, e.sha256, e.reason
  FROM outbox.export e
 WHERE e.sink = $1
   AND (e.mailing = $3 OR concat_ws('-', e.period, CASE WHEN e.part > 1 THEN e.part END) = $2)
 ORDER BY e.id
