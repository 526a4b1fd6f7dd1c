-- Where schedules stand, the database's time, and whether anything may run at all: not while the
-- installation is paused, and not in a copy of it. One that nobody entered has no settled_until.
-- $1 names
SELECT n.name, c.settled_until, c.next_at, clock_timestamp() AS now,
       EXISTS (SELECT FROM outbox.installation i
                WHERE i.paused OR coalesce(outbox.is_restored(), false)) AS paused,
       EXISTS (SELECT FROM outbox.occurrence o
                WHERE o.schedule = n.name AND o.due_at = c.settled_until) AS settled_by_period
  FROM unnest($1) AS n (name)
  LEFT JOIN outbox.calendar c ON c.kind = 'schedule' AND c.name = n.name
