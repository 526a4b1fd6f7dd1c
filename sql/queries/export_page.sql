-- A page of a closed file's rows, by keyset, never under one snapshot: the set is fixed.
-- $1 export, $2 and $3 after this message id and target, $4 rows, $5 bytes
SELECT p.message_id, p.target, p.type, p.key, p.created_at, p.headers, p.payload
  FROM (SELECT l.message_id, l.target, m.type, m.key, m.created_at, m.headers::text AS headers,
               m.payload::text AS payload,
               sum(octet_length(m.payload::text)) OVER w AS bytes, row_number() OVER w AS place
          FROM (SELECT c.message_id, c.target FROM outbox.ledger c
                 WHERE c.export_id = $1 AND (c.message_id, c.target) > ($2, $3)
                 ORDER BY c.message_id, c.target
                 LIMIT $4) l
          JOIN outbox.message m ON m.id = l.message_id
        WINDOW w AS (ORDER BY l.message_id, l.target)) p
 WHERE p.bytes <= $5 OR p.place = 1
 ORDER BY p.place
