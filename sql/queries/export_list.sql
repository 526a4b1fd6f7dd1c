-- The sinks that make files, each with its next cut and its last files, newest first; those whose mail
-- waits for an operator stay in sight, and the last of those whose mail is not out.
-- $1 a sink, NULL for all, $2 files of each
SELECT s.name AS sink, s.kind, s.paused OR i.paused AS paused, c.rule, c.next_at,
       c.next_at + c.late_after < statement_timestamp() AS overdue,
       f.id, f.period, f.part, f.state, f.due_from, f.due_before, f.row_count, f.late_rows, f.bytes,
       f.sha256, f.file, f.reason, f.published_at, f.late, f.mail, f.mail_reason,
       statement_timestamp() AS now
  FROM outbox.sink s
 CROSS JOIN outbox.installation i
  LEFT JOIN outbox.calendar c ON c.kind = 'cut' AND c.name = s.name
  LEFT JOIN LATERAL (
    SELECT e.*, m.state AS mail, m.reason AS mail_reason,
           e.late_at < statement_timestamp() AND e.state NOT IN ('published', 'empty') AS late
      FROM (SELECT x.*, row_number() OVER (ORDER BY x.due_before DESC, x.id DESC) AS place
              FROM outbox.export x WHERE x.sink = s.name) e
      LEFT JOIN outbox.mailing m ON m.id = e.mailing
     WHERE e.place <= $2 OR m.state IN ('held', 'dead')
        OR m.state NOT IN ('sent', 'discarded') AND m.period = e.period) f ON true
 WHERE s.kind IN ('csv', 'export') AND ($1 IS NULL OR s.name = $1)
 ORDER BY s.name, f.due_before DESC, f.id DESC
