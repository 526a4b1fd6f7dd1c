-- Notes that a migration ran, in its own transaction.
-- $1 number, $2 name, $3 sha256
INSERT INTO outbox.migration (number, name, sha256) VALUES ($1, $2, $3)
