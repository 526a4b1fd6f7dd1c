-- Takes a sink whose owner is gone; answers who that was, or none where the sink was handed over. The
-- epoch that was seen is part of the condition, so of two relays that try at once exactly one
-- succeeds; the new epoch fences every former owner. A row that somebody holds locked is left for the
-- next time: to wait for it would cost the lease of all sinks.
-- $1 relay id, $2 sink, $3 epoch seen
UPDATE outbox.sink s
   SET owner = $1, epoch = s.epoch + 1, taken_at = clock_timestamp()
  FROM (SELECT f.name, f.owner FROM outbox.sink f
         WHERE f.name = $2 AND f.epoch = $3 FOR UPDATE SKIP LOCKED) f
 WHERE s.name = f.name
RETURNING s.epoch, f.owner AS former
