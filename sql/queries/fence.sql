-- Whether a sink is still the relay's that took it with this epoch. Asked after a settlement did not
-- apply, to tell whether the fence refused it or its row had changed.
-- $1 sink, $2 epoch
SELECT EXISTS (SELECT FROM outbox.sink s WHERE s.name = $1 AND s.epoch = $2) AS holds
