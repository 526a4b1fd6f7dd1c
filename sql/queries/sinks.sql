-- Who owns which sink, whether that relay still lives, and which relays could work it: those that
-- live, do not drain and know it. A relay is ripe once it has renewed its lease three times, seen by
-- its own last beat and not by the clock: one that crashed before its third looks no riper as its
-- lease runs out. A beat from the future is from before the database's clock was set back: who lives
-- beats again within the lease, and who does not must not look alive until the clock is there again.
-- One snapshot, because the plan is made of all of it.
WITH live AS MATERIALIZED (
  SELECT r.id, r.sinks, r.draining, r.heartbeat_at >= r.started_at + r.lease * 0.9 AS ripe
    FROM outbox.relay r
   WHERE r.heartbeat_at > statement_timestamp() - r.lease
     AND r.heartbeat_at < statement_timestamp() + r.lease
)
SELECT s.name, s.bell, s.owner, s.epoch, s.paused,
       EXISTS (SELECT FROM live l WHERE l.id = s.owner) AS alive,
       ARRAY(SELECT l.id FROM live l
              WHERE NOT l.draining AND l.ripe AND s.name = ANY (l.sinks) ORDER BY l.id) AS ripe,
       ARRAY(SELECT l.id FROM live l
              WHERE NOT l.draining AND NOT l.ripe AND s.name = ANY (l.sinks) ORDER BY l.id) AS young
  FROM outbox.sink s
 ORDER BY s.name
