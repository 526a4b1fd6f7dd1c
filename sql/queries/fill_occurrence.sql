-- What a run wrote.
-- $1 schedule, $2 period, $3 round, $4 messages, $5 first id, $6 last id
UPDATE outbox.occurrence o
   SET messages = $4, first_id = $5, last_id = $6
 WHERE o.schedule = $1 AND o.period = $2 AND o.round = $3
