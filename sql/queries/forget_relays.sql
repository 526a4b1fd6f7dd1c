-- Relays that fell silent are kept an hour for "status", then forgotten.
DELETE FROM outbox.relay
 WHERE heartbeat_at < clock_timestamp() - greatest(lease * 10, interval '1 hour')
