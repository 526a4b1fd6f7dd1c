-- Who owns which sink, and whether that relay still lives.
-- $1 names
SELECT s.name, s.bell, s.owner, s.epoch, s.paused,
       EXISTS (SELECT FROM outbox.relay r
                WHERE r.id = s.owner AND r.heartbeat_at > clock_timestamp() - r.lease) AS alive
  FROM outbox.sink s
 WHERE s.name = ANY ($1)
 ORDER BY s.name
