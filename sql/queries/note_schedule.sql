-- Notes why a period that is due could not run; it goes with the next that runs or is passed over.
-- $1 schedule, $2 reason
UPDATE outbox.calendar c SET reason = $2
 WHERE c.kind = 'schedule' AND c.name = $1 AND c.reason IS DISTINCT FROM $2
