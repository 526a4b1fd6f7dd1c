-- What waits for a CSV sink's next cut: the database's time, the oldest due, and how many are due,
-- counted to a limit. Nothing waits for a cut while the installation or the sink is paused.
-- $1 sink, $2 limit
SELECT statement_timestamp() AS now,
       EXISTS (SELECT FROM outbox.installation i WHERE i.paused)
         OR EXISTS (SELECT FROM outbox.sink s WHERE s.name = $1 AND s.paused) AS paused,
       (SELECT d.due_at FROM outbox.delivery d
         WHERE NOT EXISTS (SELECT FROM outbox.installation i WHERE i.paused)
           AND NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name = $1 AND s.paused)
           AND d.sink = $1 AND d.lane = 0 AND d.due_at <= statement_timestamp()
         ORDER BY d.due_at LIMIT 1) AS oldest,
       (SELECT count(*) FROM (
          SELECT FROM outbox.delivery d
           WHERE d.sink = $1 AND d.lane = 0 AND d.due_at <= statement_timestamp()
           LIMIT $2) b) AS waiting,
       (SELECT max(e.due_before) FROM outbox.export e WHERE e.sink = $1) AS cut_before,
       (SELECT e.due_before FROM outbox.export e
         WHERE e.sink = $1 AND e.rows_max IS NULL
         ORDER BY e.due_before DESC LIMIT 1) AS ticked_before,
       coalesce((SELECT c.since FROM outbox.calendar c WHERE c.kind = 'cut' AND c.name = $1),
                statement_timestamp()) AS since
