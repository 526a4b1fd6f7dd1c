-- Notes up to where a schedule is settled, and what comes next. Never back.
-- $1 schedule, $2 settled until, $3 what comes next, NULL if nothing does
UPDATE outbox.calendar c
   SET settled_until = greatest(c.settled_until, $2), next_at = $3,
       reason = CASE WHEN c.settled_until < $2 THEN NULL ELSE c.reason END
 WHERE c.kind = 'schedule' AND c.name = $1
   AND (c.settled_until < $2 OR c.next_at IS DISTINCT FROM $3)
