-- Published files of a sink that a mail is to carry and none carries yet, the oldest first.
-- $1 sink, $2 limit
SELECT e.id, concat_ws('-', e.period, CASE WHEN e.part > 1 THEN e.part END) AS period
  FROM outbox.export e
 WHERE e.sink = $1 AND e.state = 'published' AND e.mailing IS NULL AND e.to_mail
 ORDER BY e.id
 LIMIT $2
