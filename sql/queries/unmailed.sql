-- Published files of a sink that a mail is to carry and none carries yet, the oldest first.
-- $1 sink, $2 the first of them that is looked at, $3 limit
SELECT e.id, concat_ws('-', e.period, CASE WHEN e.part > 1 THEN e.part END) AS period
  FROM outbox.export e
 WHERE e.sink = $1 AND e.state = 'published' AND e.mailing IS NULL AND e.to_mail AND e.id >= $2
 ORDER BY e.id
 LIMIT $3
