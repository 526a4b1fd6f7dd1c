-- Takes a sink whose owner is gone. The epoch that was seen is part of the condition, so of two
-- relays that try at once exactly one succeeds; the new epoch fences every former owner.
-- $1 relay id, $2 sink, $3 epoch seen
UPDATE outbox.sink
   SET owner = $1, epoch = epoch + 1, taken_at = clock_timestamp()
 WHERE name = $2 AND epoch = $3
RETURNING epoch
