-- Forgets runs of schedules, files and mails that are past; see the function.
-- $1 how long they are kept, in ms
SELECT outbox.forget_calendar($1 * interval '1 ms') AS forgotten
