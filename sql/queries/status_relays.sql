-- The relays, the living first.
SELECT r.id, r.host, r.pid, r.version, r.routes_hash, r.sinks, r.draining, r.captures,
       extract(epoch FROM statement_timestamp() - r.heartbeat_at)::bigint AS heartbeat_age,
       r.heartbeat_at > statement_timestamp() - r.lease
         AND r.heartbeat_at < statement_timestamp() + r.lease AS alive
  FROM outbox.relay r
 ORDER BY alive DESC, r.started_at, r.id
 LIMIT 100
