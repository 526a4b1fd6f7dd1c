-- A file is not mailed, as the config has it: only the newest goes out. Its mail is closed, whether it
-- was planned for that or could not go out in time; not one that an operator has sent again.
-- $1 relay, $2 mailing
UPDATE outbox.mailing m
   SET state = 'discarded', actor = $1, changed_at = clock_timestamp(),
       reason = 'catch_up = "latest": a newer file goes out in its place'
 WHERE m.id = $2 AND m.state IN ('planned', 'built', 'unsent') AND NOT m.by_hand
