-- The mail of a period, or the one that carries its file.
-- $1 sink, $2 period
SELECT m.id, m.sink, m.period, m.state, m.attempt, m.hash, m.hold_until, m.reason, m.transcript,
       m.recipients::text AS recipients
  FROM outbox.mailing m
 WHERE m.sink = $1 AND m.period = $2
UNION
SELECT m.id, m.sink, m.period, m.state, m.attempt, m.hash, m.hold_until, m.reason, m.transcript,
       m.recipients::text AS recipients
  FROM outbox.export e
  JOIN outbox.mailing m ON m.id = e.mailing
 WHERE e.sink = $1 AND concat_ws('-', e.period, CASE WHEN e.part > 1 THEN e.part END) = $2
