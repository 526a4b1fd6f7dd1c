-- For each key the lowest open delivery, whatever its state and due time: only that one may start.
-- Where the sink's order is "skip", dead and held ones do not count. Nor may it start while a lower
-- message of its key still waits for a route that has come by now. No row for a key that has none left.
-- $1 sink, $2 targets, $3 keys, $4 whether dead and held heads are skipped
SELECT h.message_id, h.target, h.lane, h.key, h.attempt, h.rev, h.round,
       coalesce(h.crashes, 0::smallint) AS crashes, h.content_hash, h.due_at,
       h.recipients::text AS recipients,
       statement_timestamp() AS asked_at,
       h.state = 'pending' AND h.due_at <= statement_timestamp()
         AND NOT EXISTS (SELECT FROM outbox.sink p WHERE p.name = $1 AND p.paused)
         AND NOT EXISTS (SELECT FROM outbox.installation i WHERE i.one AND i.paused)
         AND NOT EXISTS (
               SELECT FROM outbox.delivery u
                 JOIN outbox.message um ON um.id = u.message_id
                CROSS JOIN LATERAL outbox.routes_of(um.type) r
                WHERE u.sink = '' AND u.target = '' AND u.key = h.key AND u.message_id < h.message_id
                  AND r.sink = $1 AND r.target = h.target) AS startable,
       m.type, m.created_at, m.headers::text AS headers,
       (extract(epoch FROM statement_timestamp() - m.created_at) * 1000)::bigint AS age_ms,
       coalesce(m.expires_at <= statement_timestamp(), false) AS expired,
       CASE WHEN h.state = 'pending' AND h.due_at <= statement_timestamp()
                 AND pg_column_size(m.payload) <= 8192 AND pg_column_compression(m.payload) IS NULL
            THEN m.payload::text END AS payload
  FROM unnest($2::text[], $3::text[]) AS k (target, key)
 CROSS JOIN LATERAL (
         SELECT d.message_id, d.target, d.lane, d.key, d.attempt, d.rev, d.round, d.crashes,
                d.content_hash, d.due_at, d.state, d.recipients
           FROM outbox.delivery d
          WHERE d.sink = $1 AND d.target = k.target AND d.key = k.key
            AND NOT ($4 AND d.state IN ('dead', 'held'))
          ORDER BY d.message_id
          LIMIT 1) h
  LEFT JOIN outbox.message m ON m.id = h.message_id
