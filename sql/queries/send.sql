-- Sends a message as a producer does. An interval from now is added to the database's clock.
-- $1 type, $2 payload, $3 key, $4 due at, $5 or due in ms, $6 expires at, $7 dedupe key, $8 headers
SELECT outbox.send($1, $2::jsonb, $3, coalesce($4, clock_timestamp() + $5 * interval '1 ms'), $6, $7,
                   $8::jsonb) AS message_id
