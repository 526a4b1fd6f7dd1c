-- How a database stands that may be a restored one: whether this is another cluster than at first,
-- and the highest id ever given to a message.
SELECT outbox.is_restored() AS restored, i.paused AND i.paused_for = 'restored' AS is_paused,
       outbox.highest_id() AS highest_id
  FROM outbox.installation i
