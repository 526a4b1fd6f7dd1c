-- The routes in force that lead somewhere.
SELECT r.pattern, r.sink, r.target
  FROM outbox.route r
 WHERE r.sink <> ''
 ORDER BY r.sink, r.target, r.pattern
