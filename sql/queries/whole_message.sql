-- One message with all that its deliveries are made of.
-- $1 message id
SELECT m.type, m.key, m.created_at, m.headers::text AS headers, m.payload::text AS payload
  FROM outbox.message m
 WHERE m.id = $1
