-- Enters a relay before it takes its first sink, unless relays of the other kind are in its way. The id is
-- random: a host name is never identity.
-- $1 id, $2 lease in ms, $3 host, $4 pid, $5 version, $6 hash of its routes, $7 sinks it knows, $8 schedules,
-- $9 hash of its config, $10 whether it captures
INSERT INTO outbox.relay (id, lease, host, pid, version, routes_hash, sinks, schedules, config_hash, captures)
SELECT $1, $2::bigint * interval '1 ms', $3, $4, $5, $6, $7, $8, $9, $10
 WHERE outbox.may_enter($10)
