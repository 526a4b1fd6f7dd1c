-- Notes why a mail was not begun, and when it is tried again; nothing was said to the mail server that
-- could deliver.
-- $1 relay, $2 mailing, $3 whether it cannot be made at all, $4 ms, $5 reason
UPDATE outbox.mailing m
   SET state = CASE WHEN $3 THEN 'dead' ELSE m.state END,
       actor = $1, reason = $5, changed_at = clock_timestamp(),
       due_at = clock_timestamp() + $4 * interval '1 ms'
 WHERE m.id = $2 AND m.state IN ('planned', 'built', 'unsent')
