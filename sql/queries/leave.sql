-- A relay that stopped cleanly is gone at once.
-- $1 relay id
DELETE FROM outbox.relay WHERE id = $1
