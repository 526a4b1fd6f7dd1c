-- Types without a route, by how many messages wait for one; of the first unrouted messages only.
-- $1 limit
SELECT coalesce(m.type, '?') AS type, count(*) AS messages
  FROM (SELECT d.message_id
          FROM outbox.delivery d
         WHERE d.state = 'unrouted' AND d.sink = ''
         ORDER BY d.message_id LIMIT $1) u
  LEFT JOIN outbox.message m ON m.id = u.message_id
 GROUP BY m.type
 ORDER BY messages DESC, type
