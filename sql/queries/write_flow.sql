-- What the owner of a sink is doing, for "status". Under the epoch, so that a former owner is mute.
-- $1 sink, $2 epoch, $3 in flight, $4 delivered and $5 failed in the last minute, $6 hidden, $7 gone
INSERT INTO outbox.flow (sink, in_flight, delivered_minute, failed_minute, hidden, gone)
SELECT f.name, $3, $4, $5, $6, $7 FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2
    ON CONFLICT ON CONSTRAINT flow_pk DO UPDATE
   SET in_flight = excluded.in_flight, delivered_minute = excluded.delivered_minute,
       failed_minute = excluded.failed_minute, hidden = excluded.hidden, gone = excluded.gone,
       updated_at = clock_timestamp()
