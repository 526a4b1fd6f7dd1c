-- The relays that entered themselves: which config each works by, whether it lives and whether it hears.
-- The living first, then the newest: one that crashes again and again leaves many behind.
SELECT r.host, r.pid, r.version, r.config_hash, r.listens, r.captures,
       extract(epoch FROM statement_timestamp() - r.heartbeat_at)::bigint AS heartbeat_age,
       r.heartbeat_at > statement_timestamp() - r.lease
         AND r.heartbeat_at < statement_timestamp() + r.lease AS alive
  FROM outbox.relay r
 ORDER BY alive DESC, r.started_at DESC, r.id
 LIMIT 100
