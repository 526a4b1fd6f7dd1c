-- The export before one, if nobody has counted its late rows yet: once is enough, also where the file
-- that is made now is begun again and again.
-- $1 sink, $2 the later export
SELECT p.id, p.period, p.due_from, p.due_before, p.row_count
  FROM (SELECT e.* FROM outbox.export e
         WHERE e.sink = $1 AND e.id <> $2
           AND e.due_before <= (SELECT x.due_before FROM outbox.export x WHERE x.id = $2)
         ORDER BY e.due_before DESC LIMIT 1) p
 WHERE p.state IN ('published', 'empty') AND p.due_from IS NOT NULL AND p.late_rows IS NULL
