-- The file a CSV sink is at work on, if any: a crash resumes here.
-- $1 sink
SELECT e.id, e.period, e.part, e.state, e.due_before, e.rows_max, e.row_count
  FROM outbox.export e
 WHERE e.sink = $1 AND e.state <> 'published'
