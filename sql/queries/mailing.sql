-- What there is to mail of a sink: the mail at work, if any, and when it last was a day's mail. Nothing
-- while the installation, the sink, or the sink that the mail goes through is paused.
-- $1 sink, $2 the smtp sink
SELECT statement_timestamp() AS now, m.id, m.period, m.state, m.attempt, m.hash, m.by_hand, m.planned_at, m.changed_at,
       m.day, m.recipients::text AS recipients,
       extract(epoch FROM m.due_at - statement_timestamp())::double precision AS wait,
       (SELECT max(d.day) FROM outbox.mailing d WHERE d.sink = $1) AS last_day
  FROM (SELECT 1) one
  LEFT JOIN outbox.mailing m
    ON m.sink = $1 AND m.state IN ('planned', 'built', 'sending', 'unsent')
 WHERE NOT EXISTS (SELECT FROM outbox.installation i WHERE i.paused)
   AND NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name IN ($1, $2) AND s.paused)
