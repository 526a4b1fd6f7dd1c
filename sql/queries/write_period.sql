-- Writes the one message of a period of a schedule without a query.
-- $1 type, $2 payload, $3 headers
WITH written AS (
  INSERT INTO outbox.message (type, payload, headers) VALUES ($1, $2::jsonb, $3::jsonb)
  RETURNING id
)
SELECT count(*) AS messages, min(w.id) AS first_id, max(w.id) AS last_id FROM written w
