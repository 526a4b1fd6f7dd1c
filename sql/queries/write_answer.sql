-- Writes the messages of a period, one a row of its query. The line below "AS (" is a stand-in: the
-- query takes its place, with the columns it lacks added.
-- $1 begin and $2 end of the period, $3 type, $4 headers that every message gets
WITH answer AS (
SELECT m.payload, m.key, m.due_at, m.expires_at, m.dedupe_key, m.headers FROM outbox.message m WHERE m.created_at BETWEEN $1 AND $2
), written AS (
  INSERT INTO outbox.message (type, payload, key, due_at, expires_at, dedupe_key, headers)
  SELECT $3, a.payload, a.key, a.due_at, a.expires_at, a.dedupe_key,
         coalesce(a.headers, '{}') || $4::jsonb
    FROM answer a
  RETURNING id
)
SELECT count(*) AS messages, min(w.id) AS first_id, max(w.id) AS last_id FROM written w
