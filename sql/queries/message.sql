-- One message, without its payload; only columns an operator may read.
-- $1 message id
SELECT m.type, m.key, m.created_at, m.due_at, m.expires_at
  FROM outbox.message m
 WHERE m.id = $1
