-- All schedules that the database knows, with their last run, whether something of it is still open, and
-- what was passed over within 30 days; a period that an operator ran since is not.
SELECT c.name, c.rule, c.since, c.next_at, c.reason, clock_timestamp() AS now,
       l.period, l.round, l.ran_at, l.messages, l.actor,
       coalesce((SELECT true FROM outbox.delivery d JOIN outbox.scheduled m ON m.message_id = d.message_id
                  WHERE d.message_id BETWEEN l.first_id AND l.last_id
                    AND m.schedule = l.schedule AND m.period = l.period
                  LIMIT 1), false) AS open,
       p.missed, p.missed_since,
       EXISTS (SELECT FROM outbox.relay r WHERE c.name = ANY (r.schedules)
                AND r.heartbeat_at > statement_timestamp() - r.lease) AS worked
  FROM outbox.calendar c
  LEFT JOIN LATERAL (
    SELECT o.period, o.round, o.ran_at, o.messages, o.actor, o.first_id, o.last_id, o.schedule FROM outbox.occurrence o
     WHERE o.schedule = c.name AND o.state = 'ran'
     ORDER BY o.ran_at DESC LIMIT 1) l ON true
  CROSS JOIN LATERAL (
    SELECT coalesce(sum(m.passed + m.own), 0)::bigint AS missed,
           min(m.due_at) FILTER (WHERE m.passed + m.own > 0) AS missed_since
      FROM (SELECT o.due_at, o.passed,
                   (o.state = 'missed' AND NOT EXISTS (
                      SELECT FROM outbox.occurrence r
                       WHERE r.schedule = o.schedule AND r.period = o.period AND r.state = 'ran'))::integer
                   AS own
              FROM outbox.occurrence o
             WHERE o.schedule = c.name AND o.due_at > statement_timestamp() - interval '30 days') m) p
 WHERE c.kind = 'schedule'
 ORDER BY c.name
