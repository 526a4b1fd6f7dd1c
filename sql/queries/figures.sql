-- The figures that metrics show of the outbox, in one look at a fixed price: as in status_sinks.sql every
-- count stops at the limit and goes through an index. One row for each sink, cause of alerts, and figure.
-- $1 names of sinks, $2 lanes, $3 limit of each count, $4 the type of alerts
SELECT 'sink' AS what, n.name, q.due, q.oldest_due,
       (SELECT count(*)
          FROM unnest($2::smallint[]) AS l (lane)
         CROSS JOIN LATERAL (SELECT FROM outbox.delivery d
                              WHERE d.sink = n.name AND d.lane = l.lane
                                AND d.due_at > statement_timestamp() AND d.due_at < 'infinity'
                              LIMIT $3) x) AS later,
       (SELECT count(*) FROM (SELECT FROM outbox.delivery d
                               WHERE d.state = 'dead' AND d.sink = n.name LIMIT $3) x) AS dead,
       (SELECT count(*) FROM (SELECT FROM outbox.delivery d
                               WHERE d.state = 'held' AND d.sink = n.name LIMIT $3) x) AS held,
       coalesce((SELECT s.paused FROM outbox.sink s WHERE s.name = n.name), false) AS paused
  FROM unnest($1::text[]) AS n (name)
 CROSS JOIN LATERAL (
         SELECT count(*) AS due,
                coalesce(extract(epoch FROM statement_timestamp() - min(x.due_at)), 0)::float8 AS oldest_due
           FROM unnest($2::smallint[]) AS l (lane)
          CROSS JOIN LATERAL (SELECT d.due_at FROM outbox.delivery d
                               WHERE d.sink = n.name AND d.lane = l.lane
                                 AND d.due_at <= statement_timestamp()
                               ORDER BY d.due_at LIMIT $3) x) q
UNION ALL
SELECT 'alert', a.cause, count(*), 0, 0, 0, 0, false
  FROM outbox.alert a WHERE NOT a.gone GROUP BY a.cause
UNION ALL
SELECT 'unrouted', '', count(*), 0, 0, 0, 0, false
  FROM (SELECT FROM outbox.delivery d WHERE d.state = 'unrouted' AND d.sink = '' LIMIT $3) u
UNION ALL
SELECT 'unseen', '', count(*), 0, 0, 0, 0, false FROM (SELECT FROM outbox.unseen LIMIT $3) u
UNION ALL
SELECT 'receivers', '', count(DISTINCT r.sink), 0, 0, 0, 0, false
  FROM outbox.routes_of($4) r WHERE r.sink <> ''
UNION ALL
SELECT 'relays', '', count(*), 0, 0, 0, 0, false
  FROM outbox.relay r
 WHERE r.heartbeat_at > statement_timestamp() - r.lease
   AND r.heartbeat_at < statement_timestamp() + r.lease
UNION ALL
SELECT 'installation', '', 1, 0, 0, 0, 0, i.paused FROM outbox.installation i
