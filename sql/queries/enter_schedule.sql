-- Enters a schedule, or what changed of it. What lies before its beginning, which is when it was first
-- seen or what the config says then, is none of its business; the beginning stays.
-- $1 name, $2 rule in words, $3 late after so many ms, $4 beginning, NULL for now
INSERT INTO outbox.calendar AS c (kind, name, rule, late_after, since, settled_until)
SELECT 'schedule', $1, $2, $3 * interval '1 ms', b.beginning, b.beginning - interval '1 microsecond'
  FROM (SELECT coalesce($4, clock_timestamp()) AS beginning) b
    ON CONFLICT ON CONSTRAINT calendar_pk DO UPDATE
   SET rule = excluded.rule, late_after = excluded.late_after
 WHERE (c.rule, c.late_after) IS DISTINCT FROM (excluded.rule, excluded.late_after)
