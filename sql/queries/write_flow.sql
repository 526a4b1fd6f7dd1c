-- What the owner of a sink is doing, for "status" and for alerts. Under the epoch, so that a former
-- owner is mute. Times are given as ms from now: the relay's clock decides nothing.
-- $1 sink, $2 epoch, $3 in flight, $4 delivered and $5 failed in the last minute, $6 hidden, $7 gone,
-- $8 keys parked, $9 ms since the breaker opened or NULL, $10 why, $11 ms the sink waits or NULL,
-- $12 what for, $13 the retry horizon in ms
INSERT INTO outbox.flow (sink, in_flight, delivered_minute, failed_minute, hidden, gone, parked,
                         open_since, open_reason, waits_until, waits_for, horizon)
SELECT f.name, $3, $4, $5, $6, $7, $8, clock_timestamp() - $9 * interval '1 ms', $10,
       clock_timestamp() + $11 * interval '1 ms', $12, $13 * interval '1 ms'
  FROM outbox.sink f
 WHERE f.name = $1 AND f.epoch = $2
    ON CONFLICT ON CONSTRAINT flow_pk DO UPDATE
   SET in_flight = excluded.in_flight, delivered_minute = excluded.delivered_minute,
       failed_minute = excluded.failed_minute, hidden = excluded.hidden, gone = excluded.gone,
       parked = excluded.parked, open_since = excluded.open_since,
       open_reason = excluded.open_reason, waits_until = excluded.waits_until,
       waits_for = excluded.waits_for, horizon = excluded.horizon, updated_at = clock_timestamp()
