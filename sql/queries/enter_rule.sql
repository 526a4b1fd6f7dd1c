-- Enters a rule of the calendar, or what changed of it. When it was first seen stays.
-- $1 kind, $2 name, $3 rule in words, $4 late after so many ms
INSERT INTO outbox.calendar AS c (kind, name, rule, late_after)
VALUES ($1, $2, $3, $4 * interval '1 ms')
    ON CONFLICT ON CONSTRAINT calendar_pk DO UPDATE
   SET rule = excluded.rule, late_after = excluded.late_after
 WHERE (c.rule, c.late_after) IS DISTINCT FROM (excluded.rule, excluded.late_after)
