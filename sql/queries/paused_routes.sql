-- The routes that operators paused.
SELECT p.pattern, p.sink, p.target, p.actor, p.paused_at
  FROM outbox.paused_route p
 ORDER BY p.sink, p.target, p.pattern
