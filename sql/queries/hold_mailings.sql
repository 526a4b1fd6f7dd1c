-- What a former owner was sending when it fell silent, seen by the one that took over: nobody but an
-- operator may say what became of it. No "not delivered" is believed before the former owner's dialogue
-- is certainly over.
-- $1 sink, $2 epoch, $3 relay, $4 ms until the former owner is certainly done
UPDATE outbox.mailing m
   SET state = 'held', actor = $3, changed_at = clock_timestamp(),
       reason = 'in doubt: the relay that was sending it fell silent',
       hold_until = clock_timestamp() + $4 * interval '1 ms'
  FROM (SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT) f
 WHERE m.sink = $1 AND m.state = 'sending' AND m.epoch < $2
RETURNING m.period
