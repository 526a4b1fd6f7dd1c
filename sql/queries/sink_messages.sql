-- The messages of a sink that were written within a span, their deliveries open or closed, each once;
-- what an export on demand makes its lines of.
-- $1 from, $2 to, $3 sink
SELECT m.id, m.type, m.key, m.payload, m.headers, m.created_at
  FROM outbox.message m
 WHERE m.created_at >= $1 AND m.created_at < $2
   AND (EXISTS (SELECT FROM outbox.delivery d WHERE d.message_id = m.id AND d.sink = $3)
        OR EXISTS (SELECT FROM outbox.ledger l WHERE l.message_id = m.id AND l.sink = $3))
 ORDER BY m.id
