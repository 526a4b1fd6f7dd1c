-- A page of what was put back while its route was paused falls due now. By the relay that put it back:
-- it learns a moment later than "resume" that the route goes on, and may have put back more meanwhile.
-- It rests an hour, so nothing later is looked at.
-- Only what goes by this route: of another one that stays paused it would be put back again at once.
-- $1 sink, $2 target, $3 lanes, $4 limit, $5 pattern
WITH page AS MATERIALIZED (
  SELECT w.message_id
    FROM unnest($3::smallint[]) AS l (lane)
   CROSS JOIN LATERAL (
           SELECT d.message_id
             FROM outbox.delivery d
            WHERE d.sink = $1 AND d.lane = l.lane
              AND d.due_at > statement_timestamp()
              AND d.due_at <= statement_timestamp() + interval '61 min'
              AND d.target = $2 AND d.reason = 'route paused'
              AND coalesce(
                    (SELECT r.pattern
                       FROM outbox.message m
                       JOIN outbox.route r ON r.sink = $1 AND r.target = $2
                            AND CASE WHEN r.exact THEN r.pattern = m.type
                                     ELSE starts_with(m.type, r.prefix)
                                          AND (r.regex IS NULL OR m.type ~ r.regex) END
                      WHERE m.id = d.message_id
                      ORDER BY r.specificity DESC LIMIT 1), $5) = $5
            ORDER BY d.due_at
            LIMIT $4
              FOR UPDATE SKIP LOCKED) w
)
UPDATE outbox.delivery d
   SET due_at = clock_timestamp(), rev = d.rev + 1
  FROM page p
 WHERE d.message_id = p.message_id AND d.sink = $1 AND d.target = $2 AND d.state = 'pending'
RETURNING d.message_id
