-- Keys whose head cannot be delivered now and has followers, with how many wait behind it. Bounded:
-- only so many deliveries of each state, sink and lane are looked at, and followers counted up to a
-- limit. Always answers how many were looked at, if need be in a row without a delivery.
-- $1 sinks, $2 lanes, $3 how many to look at, $4 how many to answer, $5 limit of each count
WITH looked AS MATERIALIZED (
  SELECT p.*
    FROM unnest($1::text[]) AS n (sink)
   CROSS JOIN unnest('{dead,held}'::text[]) AS s (state)
   CROSS JOIN LATERAL (
           SELECT w.* FROM outbox.delivery w
            WHERE w.state = s.state AND w.state <> 'pending' AND w.sink = n.sink
            ORDER BY w.message_id
            LIMIT $3) p
  UNION ALL
  SELECT p.*
    FROM unnest($1::text[]) AS n (sink)
   CROSS JOIN unnest($2::smallint[]) AS l (lane)
   CROSS JOIN LATERAL (
           SELECT w.* FROM outbox.delivery w
            WHERE w.sink = n.sink AND w.lane = l.lane
              AND w.due_at > statement_timestamp() AND w.due_at < 'infinity'
            ORDER BY w.due_at
            LIMIT $3) p
)
SELECT d.message_id, d.sink, d.target, d.state, d.attempt, d.rev, d.reason, d.key, d.hold_until,
       outbox.recipient_counts(d.recipients) AS recipients,
       CASE WHEN isfinite(d.due_at) THEN d.due_at END AS due_at,
       CASE WHEN isfinite(d.due_at)
            THEN extract(epoch FROM d.due_at - statement_timestamp())::bigint END AS due_in,
       m.type, m.created_at, extract(epoch FROM statement_timestamp() - m.created_at)::bigint AS age,
       (SELECT count(*)
          FROM (SELECT FROM outbox.delivery f
                 WHERE f.sink = d.sink AND f.target = d.target AND f.key = d.key
                   AND f.message_id > d.message_id
                 LIMIT $5) x) AS followers,
       k.looked_at
  FROM (SELECT count(*) AS looked_at FROM looked) k
  LEFT JOIN (SELECT h.*
               FROM looked h
              WHERE h.key IS NOT NULL
                AND NOT EXISTS (SELECT FROM outbox.delivery l
                                 WHERE l.sink = h.sink AND l.target = h.target AND l.key = h.key
                                   AND l.message_id < h.message_id)
                AND EXISTS (SELECT FROM outbox.delivery f
                             WHERE f.sink = h.sink AND f.target = h.target AND f.key = h.key
                               AND f.message_id > h.message_id)
              ORDER BY h.message_id
              LIMIT $4) d ON true
  LEFT JOIN outbox.message m ON m.id = d.message_id
 ORDER BY d.message_id, d.sink, d.target
