-- A page of the deliveries that belong into an open file, bounded by rows and by payload bytes; the
-- first row comes whatever its size.
-- $1 sink, $2 due before, $3 rows, $4 bytes
SELECT p.message_id, p.target, p.key, p.attempt, p.rev, p.round, 0::smallint AS crashes,
       NULL::bytea AS content_hash, NULL::text AS recipients, p.due_at, p.type, p.created_at, p.headers,
       p.expired, p.payload
  FROM (SELECT d.message_id, d.target, d.key, d.attempt, d.rev, d.round, d.due_at, m.type, m.created_at,
               m.headers::text AS headers,
               coalesce(m.expires_at <= statement_timestamp(), false) AS expired,
               m.payload::text AS payload,
               sum(coalesce(octet_length(m.payload::text), 0)) OVER w AS bytes,
               row_number() OVER w AS place
          FROM (SELECT o.message_id, o.target, o.key, o.attempt, o.rev, o.round, o.due_at
                  FROM outbox.delivery o
                 WHERE o.sink = $1 AND o.lane = 0 AND o.due_at < $2
                 ORDER BY o.due_at, o.message_id
                 LIMIT $3) d
          LEFT JOIN outbox.message m ON m.id = d.message_id
        WINDOW w AS (ORDER BY d.due_at, d.message_id, d.target)) p
 WHERE p.bytes <= $4 OR p.place = 1
 ORDER BY p.place
