-- A page of the messages found unseen.
-- $1 limit
SELECT u.message_id FROM outbox.unseen u ORDER BY u.message_id LIMIT $1
