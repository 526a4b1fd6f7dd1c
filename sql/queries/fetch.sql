-- The next due deliveries of a sink's lane that are not in hand already; read-only. Walks the
-- fetch index from the floor; rows in hand and followers of keys in hand are passed over inside
-- the walk. Keyed rows come without payload: the key index decides which of them may start.
-- Payloads that are compressed or larger than 8 kB come alone, through payload.sql.
-- Where more keys are parked than the hand can name, their followers would fill every fetch; then
-- the key index is asked row by row whether a keyed row is the head.
-- In no order of its own: a sort would hold up the plan for payloads that the caller can put in order.
-- Brings nothing while the sink or the installation is paused. Answers one row at least: asked_at is
-- the database's time, up to which the walk has seen everything if it found less than the limit; while
-- paused it has seen nothing.
-- $1 sink, $2 lane, $3 floor, $4 limit, $5 and $6 rows in hand (message ids, targets),
-- $7 and $8 keys in hand (targets, keys), $9 the head of each of those keys, $10 whether these are
-- not all, $11 whether dead and held heads are skipped
SELECT d.message_id, d.target, d.lane, d.key, d.attempt, d.rev, d.round,
       coalesce(d.crashes, 0::smallint) AS crashes, d.content_hash, d.due_at,
       d.recipients::text AS recipients,
       m.type, m.created_at, m.headers::text AS headers,
       (extract(epoch FROM statement_timestamp() - m.created_at) * 1000)::bigint AS age_ms,
       coalesce(m.expires_at <= statement_timestamp(), false) AS expired,
       CASE WHEN d.key IS NULL AND pg_column_size(m.payload) <= 8192
                 AND pg_column_compression(m.payload) IS NULL
            THEN m.payload::text END AS payload,
       CASE WHEN EXISTS (SELECT FROM outbox.sink p WHERE p.name = $1 AND p.paused)
                 OR EXISTS (SELECT FROM outbox.installation i WHERE i.one AND i.paused)
            THEN timestamptz '1970-01-01 00:00:00+00' ELSE statement_timestamp() END AS asked_at
  FROM (VALUES (true)) AS always (one)
  LEFT JOIN (SELECT w.message_id, w.target, w.lane, w.key, w.attempt, w.rev, w.round, w.crashes,
                    w.content_hash, w.due_at, w.recipients
          FROM outbox.delivery w
         WHERE w.sink = $1 AND w.lane = $2
           AND w.due_at >= $3 AND w.due_at <= statement_timestamp()
           AND (w.message_id, w.target) NOT IN (
                 SELECT h.message_id, h.target
                   FROM unnest($5::bigint[], $6::text[]) AS h (message_id, target))
           AND (w.key IS NULL
                OR (w.target, w.key) NOT IN (
                     SELECT k.target, k.key FROM unnest($7::text[], $8::text[]) AS k (target, key))
                OR (w.message_id, w.target) IN (
                     SELECT k.head, k.target FROM unnest($9::bigint[], $7::text[]) AS k (head, target)))
           AND (NOT $10 OR w.key IS NULL
                OR NOT EXISTS (
                     SELECT FROM outbox.delivery l
                      WHERE l.sink = $1 AND l.target = w.target AND l.key = w.key
                        AND l.message_id < w.message_id
                        AND NOT ($11 AND l.state IN ('dead', 'held'))))
           AND NOT EXISTS (SELECT FROM outbox.sink p WHERE p.name = $1 AND p.paused)
           AND NOT EXISTS (SELECT FROM outbox.installation i WHERE i.one AND i.paused)
         ORDER BY w.due_at, w.message_id
         LIMIT $4) d ON true
  LEFT JOIN outbox.message m ON m.id = d.message_id
