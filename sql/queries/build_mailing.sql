-- Notes that a mail is built, and the hash of all of it; one that was built before is made anew, as the
-- config may have changed, and nothing was sent of it.
-- $1 sink, $2 epoch, $3 relay, $4 mailing, $5 hash
UPDATE outbox.mailing m
   SET state = 'built', hash = $5, actor = $3, epoch = $2, reason = NULL, changed_at = clock_timestamp()
  FROM (SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT) f
 WHERE m.id = $4 AND m.state IN ('planned', 'built', 'unsent')
