-- The file a CSV sink is at work on, if any: a crash resumes here. None while the installation or the
-- sink is paused: then the file waits where it is.
-- $1 sink
SELECT e.id, e.period, e.part, e.state, e.due_from, e.due_before, e.rows_max,
       e.row_count, e.first_id, e.last_id, e.bytes, e.sha256, e.layout
  FROM outbox.export e
 WHERE e.sink = $1 AND e.state NOT IN ('published', 'empty')
   AND NOT EXISTS (SELECT FROM outbox.installation i WHERE i.paused)
   AND NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name = $1 AND s.paused)
