-- Enters a relay before it takes its first sink. The id is random: a host name is never identity.
-- $1 id, $2 lease in ms, $3 host, $4 pid, $5 version, $6 hash of its routes, $7 sinks it knows, $8 schedules
INSERT INTO outbox.relay (id, lease, host, pid, version, routes_hash, sinks, schedules)
VALUES ($1, $2::bigint * interval '1 ms', $3, $4, $5, $6, $7, $8)
