-- How much memory a payload will take, before it is fetched.
-- $1 message id
SELECT octet_length(m.payload::text)::bigint AS bytes FROM outbox.message m WHERE m.id = $1
