-- How a database stands that may be a restored one: whether this is another cluster than at first,
-- the highest id ever given to a message, and what is open, counted to a limit.
-- $1 limit
SELECT outbox.is_restored() AS restored,
       coalesce(i.paused AND i.paused_for = 'restored', false) AS is_paused,
       outbox.highest_id() AS highest_id,
       (SELECT count(*) FROM (SELECT FROM outbox.delivery LIMIT $1) d) AS open
  FROM outbox.installation i
