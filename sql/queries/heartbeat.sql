-- Renews the lease of every sink the relay owns. A lease that ran out is not renewed: another
-- relay may have taken over, so this one starts anew.
-- $1 relay id, $2 draining
UPDATE outbox.relay
   SET heartbeat_at = clock_timestamp(), draining = $2
 WHERE id = $1 AND heartbeat_at > clock_timestamp() - lease
