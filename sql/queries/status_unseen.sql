-- How many messages were found unseen, up to a limit.
-- $1 limit
SELECT count(*) AS messages FROM (SELECT FROM outbox.unseen LIMIT $1) u
