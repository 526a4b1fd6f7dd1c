-- Which sinks producers ring for. Also where the routes stay as they are: a sink may have another
-- kind now, or NOTIFY may have been turned on or off. A CSV sink has no bell: it looks at the clock,
-- not at each message.
UPDATE outbox.route r
   SET bell = w.bell
  FROM (SELECT s.name, CASE WHEN i.doorbell AND s.kind NOT IN ('csv', 'export') THEN s.bell END AS bell
          FROM outbox.sink s CROSS JOIN outbox.installation i) w
 WHERE w.name = r.sink AND r.bell IS DISTINCT FROM w.bell
