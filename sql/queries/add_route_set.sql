-- Begins a generation of routes.
-- $1 hash, $2 who
INSERT INTO outbox.route_set (hash, applied_by) VALUES ($1, $2)
