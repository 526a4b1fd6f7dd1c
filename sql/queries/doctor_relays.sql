-- The relays that entered themselves: which config each works by, whether it lives and whether it hears.
SELECT r.host, r.pid, r.version, r.config_hash, r.listens, r.captures,
       extract(epoch FROM statement_timestamp() - r.heartbeat_at)::bigint AS heartbeat_age,
       r.heartbeat_at > statement_timestamp() - r.lease
         AND r.heartbeat_at < statement_timestamp() + r.lease AS alive
  FROM outbox.relay r
 ORDER BY r.started_at, r.id
 LIMIT 100
