-- Notes what comes next by a rule.
-- $1 kind, $2 name, $3 when, NULL if nothing does
UPDATE outbox.calendar c SET next_at = $3
 WHERE c.kind = $1 AND c.name = $2 AND c.next_at IS DISTINCT FROM $3
