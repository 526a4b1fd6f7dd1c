-- Tells of one cause, unless another relay did so since it was looked at, or not long enough ago.
-- $1 cause, $2 when it was last told of as far as we know, $3 pause in ms, $4 what is told,
-- $5 the messages
SELECT outbox.tell($1, $2, $3 * interval '1 ms', $4::text::jsonb, $5::text::jsonb) AS messages
