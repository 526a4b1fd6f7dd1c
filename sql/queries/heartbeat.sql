-- Renews the lease of every sink the relay owns. A lease that ran out is not renewed: another
-- relay may have taken over, so this one starts anew.
-- $1 relay id, $2 draining, $3 whether its LISTEN session hears, NULL where it does not try to
UPDATE outbox.relay
   SET heartbeat_at = clock_timestamp(), draining = $2, listens = $3
 WHERE id = $1 AND heartbeat_at > clock_timestamp() - lease
