-- A page of the full poll: what stands due below the floor and is neither in hand nor behind a key in
-- hand. Rows that committed late stand there, and whatever else the floor hides. The page is bounded
-- by the rows it walks, not by those it finds: behind a parked head there may be a million. Payloads
-- come alone, because next to nothing is ever found here.
-- Answers one row at least: walked is how many rows the page held, and where it ended.
-- $1 sink, $2 lane, $3 and $4 after this due time and message id, $5 up to this due time, $6 rows to
-- walk, $7 limit, $8 and $9 rows in hand (message ids, targets), $10 and $11 keys in hand (targets,
-- keys)
WITH walked AS MATERIALIZED (
  SELECT w.message_id, w.target, w.lane, w.key, w.attempt, w.rev, w.round, w.crashes, w.content_hash,
         w.due_at, w.recipients
    FROM outbox.delivery w
   WHERE w.sink = $1 AND w.lane = $2 AND w.due_at >= $3 AND (w.due_at, w.message_id) > ($3, $4)
     AND w.due_at <= least($5, statement_timestamp())
   ORDER BY w.due_at, w.message_id
   LIMIT $6
), page AS MATERIALIZED (
  SELECT count(*) AS walked, max(w.due_at) AS end_at,
         (array_agg(w.message_id ORDER BY w.due_at DESC, w.message_id DESC))[1] AS end_id
    FROM walked w
)
SELECT d.message_id, d.target, d.lane, d.key, d.attempt, d.rev, d.round,
       coalesce(d.crashes, 0::smallint) AS crashes, d.content_hash, d.due_at,
       d.recipients::text AS recipients,
       statement_timestamp() AS asked_at,
       m.type, m.created_at,
       (extract(epoch FROM statement_timestamp() - m.created_at) * 1000)::bigint AS age_ms,
       m.headers::text AS headers,
       coalesce(m.expires_at <= statement_timestamp(), false) AS expired,
       NULL::text AS payload,
       p.walked, p.end_at, p.end_id
  FROM page p
  LEFT JOIN (SELECT w.*
               FROM walked w
              WHERE (w.message_id, w.target) NOT IN (
                      SELECT h.message_id, h.target
                        FROM unnest($8::bigint[], $9::text[]) AS h (message_id, target))
                AND (w.key IS NULL
                     OR (w.target, w.key) NOT IN (
                          SELECT k.target, k.key FROM unnest($10::text[], $11::text[]) AS k (target, key)))
                AND NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name = $1 AND s.paused)
                AND NOT EXISTS (SELECT FROM outbox.installation i WHERE i.one AND i.paused)
              ORDER BY w.due_at, w.message_id
              LIMIT $7) d ON true
  LEFT JOIN outbox.message m ON m.id = d.message_id
