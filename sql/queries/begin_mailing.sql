-- Commits the intent before the dialogue: from here on only the relay with this epoch knows how it ends.
-- Under the fence, and not where anything is paused. Where one mail a day is the rule, the day is taken
-- by it: a second one of that day violates mailing_one_a_day. A mail that some accepted before keeps its day.
-- $1 sink, $2 epoch, $3 relay, $4 mailing, $5 day or NULL, $6 the smtp sink, $7 the hash that was built
UPDATE outbox.mailing m
   SET state = 'sending', actor = $3, epoch = $2,
       day = CASE WHEN outbox.has_recipient(m.recipients, 'accepted') THEN m.day ELSE $5 END, attempt = m.attempt + 1,
       transcript = NULL, changed_at = clock_timestamp()
  FROM (SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT) f
 WHERE m.id = $4 AND m.state = 'built' AND m.hash = $7
   AND NOT EXISTS (SELECT FROM outbox.installation i WHERE i.paused)
   AND NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name IN ($1, $6) AND s.paused)
RETURNING m.changed_at
