-- The schedules that a live relay knows, all of them where no relay lives: what comes next, and the last
-- run or the last that was passed over.
SELECT c.name, c.rule, extract(epoch FROM c.next_at - statement_timestamp())::bigint AS next_in,
       o.period, o.state, o.messages, extract(epoch FROM statement_timestamp() - o.ran_at)::bigint AS age
  FROM outbox.calendar c
  LEFT JOIN LATERAL (SELECT r.period, r.state, r.messages, r.ran_at
                       FROM outbox.occurrence r
                      WHERE r.schedule = c.name
                      ORDER BY r.due_at DESC, r.round DESC LIMIT 1) o ON true
 WHERE c.kind = 'schedule'
   AND (SELECT coalesce(bool_or(c.name = ANY (r.schedules)), true)
          FROM outbox.relay r
         WHERE r.heartbeat_at > statement_timestamp() - r.lease
           AND r.heartbeat_at < statement_timestamp() + r.lease)
 ORDER BY c.name
 LIMIT 1000
