-- Notes why a file does not stand yet.
-- $1 export, $2 reason
UPDATE outbox.export SET reason = $2 WHERE id = $1 AND state NOT IN ('published', 'empty')
