-- Unrouted messages for whose type a route has come; a bounded page.
-- $1 after this message id, $2 limit
SELECT u.message_id,
       EXISTS (SELECT FROM outbox.routes_of(m.type)) AS routed
  FROM (SELECT d.message_id FROM outbox.delivery d
         WHERE d.state = 'unrouted' AND d.sink = '' AND d.message_id > $1
         ORDER BY d.message_id LIMIT $2) u
  JOIN outbox.message m ON m.id = u.message_id
 ORDER BY u.message_id
