-- Notes how many rows committed after their file was made.
-- $1 export, $2 rows
UPDATE outbox.export SET late_rows = $2 WHERE id = $1 AND late_rows IS NULL
