-- A page of closed deliveries begins another life in a lane of one's choice, those that had no other
-- since they were looked at.
-- $1 message ids, $2 sinks, $3 targets, $4 rounds, $5 actor, $6 lane, $7 wait before the first in
-- microseconds, $8 span between two
SELECT c.message_id, c.sink, c.target, c.was, c.became
  FROM outbox.replay_these($1, $2, $3, $4, $5, $6, $7 * interval '1 microsecond',
                           $8 * interval '1 microsecond') c
