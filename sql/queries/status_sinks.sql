-- What each sink has to do. Every count stops at the limit, and every part of the index it walks
-- is given from the left: a million rows more cost nothing. The oldest comes out of the same walk
-- as the count, because dead entries stand where the walk begins.
-- $1 names, $2 lanes, $3 limit of each count
SELECT n.name, s.kind, s.owner, coalesce(s.paused, false) AS paused,
       q.due, q.oldest_due,
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
       f.in_flight, f.delivered_minute, f.failed_minute, f.parked,
       extract(epoch FROM statement_timestamp() - f.open_since)::bigint AS open_for, f.open_reason,
       extract(epoch FROM nullif(greatest(f.waits_until, statement_timestamp()), statement_timestamp())
                          - statement_timestamp())::bigint AS waits, f.waits_for,
       extract(epoch FROM c.next_at - statement_timestamp())::bigint AS next_cut,
       e.period, e.part, e.state AS export_state, e.row_count, e.mail,
       w.period AS stuck_period, w.reason AS stuck_reason
  FROM unnest($1::text[]) AS n (name)
 CROSS JOIN LATERAL (
         SELECT count(*) AS due,
                extract(epoch FROM statement_timestamp() - min(x.due_at))::bigint AS oldest_due
           FROM unnest($2::smallint[]) AS l (lane)
          CROSS JOIN LATERAL (SELECT d.due_at FROM outbox.delivery d
                               WHERE d.sink = n.name AND d.lane = l.lane
                                 AND d.due_at <= statement_timestamp()
                               ORDER BY d.due_at LIMIT $3) x) q
  LEFT JOIN outbox.sink s ON s.name = n.name
  LEFT JOIN outbox.flow f
    ON f.sink = n.name AND f.updated_at > statement_timestamp() - interval '90 s'
  LEFT JOIN outbox.calendar c ON c.kind = 'cut' AND c.name = n.name
  LEFT JOIN LATERAL (SELECT x.period, x.part, x.state, x.row_count, m.state AS mail
                       FROM outbox.export x
                       LEFT JOIN outbox.mailing m ON m.id = x.mailing
                      WHERE x.sink = n.name
                      ORDER BY x.period DESC, x.part DESC LIMIT 1) e ON true
  LEFT JOIN outbox.export w
    ON w.sink = n.name AND w.state NOT IN ('published', 'empty') AND w.reason IS NOT NULL
 ORDER BY n.name
