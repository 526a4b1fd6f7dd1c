-- One step round the dedupe keys: those that expired are deleted. By the primary key, because an index
-- on the expiry would be the producers' to pay for. Answers where the step ended; no row at the end.
-- $1 and $2 after this type and key, $3 keys a step
WITH page AS MATERIALIZED (
  SELECT d.type, d.key, d.expires_at
    FROM outbox.dedupe d
   WHERE d.type >= $1 AND (d.type, d.key) > ($1, $2)
   ORDER BY d.type, d.key
   LIMIT $3
), gone AS (
  DELETE FROM outbox.dedupe d
   USING page p
   WHERE d.type = p.type AND d.key = p.key AND p.expires_at <= statement_timestamp()
     AND d.expires_at = p.expires_at
)
SELECT p.type, p.key FROM page p ORDER BY p.type DESC, p.key DESC LIMIT 1
