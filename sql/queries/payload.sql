-- One payload, alone: the text PostgreSQL gives for the jsonb.
-- $1 message id
SELECT m.payload::text AS payload FROM outbox.message m WHERE m.id = $1
