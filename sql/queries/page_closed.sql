-- The next closed deliveries by message, all of a message together; those that may be replayed are
-- marked: through that sink, with one of those outcomes, closed in that span, not begun anew since,
-- their message still there and not past its time. The days' partitions are chosen by the span, and
-- walked by their index, so that a page costs the same however few of it fit.
-- $1 after this message id, $2 how many, $3 closed since, $4 and before, $5 sink, $6 outcomes
SELECT x.message_id, x.sink, x.target, x.round, x.outcome, x.closed_at, m.type, m.key,
       x.sink = $5 AND x.outcome = ANY ($6) AND x.closed_at >= $3 AND x.closed_at < $4
       AND m.id IS NOT NULL AND (m.expires_at IS NULL OR m.expires_at > statement_timestamp())
       AND NOT EXISTS (SELECT FROM outbox.ledger n
                        WHERE n.message_id = x.message_id AND n.sink = x.sink AND n.target = x.target
                          AND (n.round, n.closed_at) > (x.round, x.closed_at))
       AND NOT EXISTS (SELECT FROM outbox.delivery d
                        WHERE d.message_id = x.message_id AND d.sink = x.sink
                          AND d.target = x.target) AS fits
  FROM (SELECT l.message_id, l.sink, l.target, l.round, l.outcome, l.closed_at
          FROM outbox.ledger l
         WHERE l.message_id > $1
           AND l.closed_at >= date_trunc('day', $3::timestamptz, 'UTC')
           AND l.closed_at < date_trunc('day', $4::timestamptz, 'UTC') + interval '1 day'
         ORDER BY l.message_id
         FETCH FIRST $2 ROWS WITH TIES) x
  LEFT JOIN outbox.message m ON m.id = x.message_id
 ORDER BY x.message_id, x.sink, x.target
