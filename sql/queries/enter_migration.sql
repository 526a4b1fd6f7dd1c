-- Notes that a migration ran, in its own transaction.
-- $1 number, $2 name, $3 sha256, $4 the newest migration that a relay must know to work with it
INSERT INTO outbox.migration (number, name, sha256, works_from) VALUES ($1, $2, $3, $4)
